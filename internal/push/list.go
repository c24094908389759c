package push

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// list holds the resources of one type, by name. It is immutable, and so is what it holds: streams share it, and an
// unchanged resource is the same pointer in the next list.
type list struct {
	items []*discovery.Resource
	hash  string
	// gen is unique to this list; set and removed are the way here from the list prevGen, the usual case of a stream
	// that is up to date.
	gen, prevGen uint64
	set          []*discovery.Resource
	removed      []string
}

// emptyList stands for a type of which there is nothing.
var emptyList = &list{}

// newList makes a list of items, which are sorted by name; it returns old if they are what old holds.
func newList(old *list, items []*discovery.Resource, gen func() uint64) *list {
	set, removed := diff(old.items, items)
	if len(set) == 0 && len(removed) == 0 {
		return old
	}
	return &list{items: items, hash: hashItems(items), gen: gen(), prevGen: old.gen, set: set, removed: removed}
}

func hashItems(items []*discovery.Resource) string {
	h := sha256.New()
	for _, r := range items {
		h.Write([]byte(r.GetName() + "\x00" + r.GetVersion() + "\x00"))
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// find returns the resource named name, nil if there is none.
func (l *list) find(name string) *discovery.Resource {
	i, ok := slices.BinarySearchFunc(l.items, name, func(r *discovery.Resource, name string) int {
		return cmp.Compare(r.GetName(), name)
	})
	if !ok {
		return nil
	}
	return l.items[i]
}

// since returns what leads from the list from to l.
func (l *list) since(from *list) (set []*discovery.Resource, removed []string) {
	switch from.gen {
	case l.gen:
		return nil, nil
	case l.prevGen:
		return l.set, l.removed
	default:
		return diff(from.items, l.items)
	}
}

// sinceVersions returns what leads from the resources that a peer says it has (name to version) to l.
func (l *list) sinceVersions(has map[string]string) []*discovery.Resource {
	if len(has) == 0 {
		return l.items
	}
	var set []*discovery.Resource
	for _, r := range l.items {
		if v, ok := has[r.GetName()]; !ok || v != r.GetVersion() {
			set = append(set, r)
		}
	}
	return set
}

// diff walks two sorted lists at once.
func diff(from, to []*discovery.Resource) (set []*discovery.Resource, removed []string) {
	for len(from) > 0 && len(to) > 0 {
		if from[0] == to[0] {
			from, to = from[1:], to[1:]
			continue
		}
		switch c := cmp.Compare(from[0].GetName(), to[0].GetName()); {
		case c < 0:
			removed = append(removed, from[0].GetName())
			from = from[1:]
		case c > 0:
			set = append(set, to[0])
			to = to[1:]
		default:
			if from[0].GetVersion() != to[0].GetVersion() {
				set = append(set, to[0])
			}
			from, to = from[1:], to[1:]
		}
	}
	for _, r := range from {
		removed = append(removed, r.GetName())
	}
	return append(set, to...), removed
}
