package push

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

// maxResource is the most that one encoded resource may take; what is larger is not sent (its encoding would not pass
// the client's limit on messages).
const maxResource = 8 << 20

// snapshot is all config at one moment. It is immutable.
type snapshot struct {
	common lists
	own    map[string]lists // by pod name
	// superseded is closed once there is a newer snapshot.
	superseded chan struct{}
}

// lists are the resources of one owner, by type.
type lists struct {
	types map[string]*list
	// version identifies all that a peer gets, common and own: equal versions mean equal config.
	version string
}

func (l lists) of(typ string) *list {
	if list, ok := l.types[typ]; ok {
		return list
	}
	return emptyList
}

// version is that of all that the pod gets.
func (s *snapshot) version(pod string) string {
	if own, ok := s.own[pod]; ok {
		return own.version
	}
	return s.common.version
}

// differs says whether some peer gets something else by o.
func (s *snapshot) differs(o *snapshot) bool {
	return s.common.version != o.common.version || !maps.EqualFunc(s.own, o.own, func(a, b lists) bool {
		return a.version == b.version
	})
}

// maker makes snapshots, each from the one before. It belongs to one goroutine at a time.
type maker struct{ lastGen uint64 }

func (m *maker) gen() uint64 {
	m.lastGen++
	return m.lastGen
}

// next makes the snapshot that follows old (nil at first). Resources that cannot be sent stay what they were and are
// named in the error; the snapshot is good all the same.
func (m *maker) next(old *snapshot, common []configv1.Resource, own map[string][]configv1.Resource) (*snapshot, error) {
	if old == nil {
		old = &snapshot{}
	}
	s := &snapshot{own: make(map[string]lists, len(own)), superseded: make(chan struct{})}
	var errs []error
	var err error
	if s.common, err = m.lists(old.common, common); err != nil {
		errs = append(errs, err)
	}
	s.common.version = hashLists("", s.common)
	for pod, resources := range own {
		l, err := m.lists(old.own[pod], resources)
		if err != nil {
			errs = append(errs, err)
		}
		l.version = hashLists(s.common.version, l)
		s.own[pod] = l
	}
	return s, errors.Join(errs...)
}

// lists makes the lists that follow old, taking over what is the same.
func (m *maker) lists(old lists, resources []configv1.Resource) (lists, error) {
	byKey := func(a, b configv1.Resource) int { return a.Compare(b.Key) }
	if !slices.IsSortedFunc(resources, byKey) {
		resources = slices.SortedStableFunc(slices.Values(resources), byKey)
	}
	var errs []error
	next := lists{types: map[string]*list{}}
	for len(resources) > 0 {
		typ, n := resources[0].Type, 1
		for n < len(resources) && resources[n].Type == typ {
			n++
		}
		items, err := encodeAll(old.of(typ).items, resources[:n])
		if err != nil {
			errs = append(errs, err)
		}
		if len(items) > 0 {
			next.types[typ] = newList(old.of(typ), items, m.gen)
		}
		resources = resources[n:]
	}
	return next, errors.Join(errs...)
}

// encodeAll makes the items of one type, sorted by name as resources are, taking over what old has already.
func encodeAll(old []*discovery.Resource, resources []configv1.Resource) ([]*discovery.Resource, error) {
	var errs []error
	items := make([]*discovery.Resource, 0, len(resources))
	for i, r := range resources {
		if i > 0 && r.Name == resources[i-1].Name {
			errs = append(errs, fmt.Errorf("%s is there twice", r.Key))
			continue
		}
		for len(old) > 0 && old[0].GetName() < r.Name {
			old = old[1:]
		}
		var before *discovery.Resource
		if len(old) > 0 && old[0].GetName() == r.Name {
			before = old[0]
		}
		item, err := encode(before, r)
		if err != nil {
			errs = append(errs, err)
			item = before
		}
		if item != nil {
			items = append(items, item)
		}
	}
	return items, errors.Join(errs...)
}

// encode returns r as it is sent: what it was before (nil if it wasn't) if that has the same version, so that a resource
// is encoded once.
func encode(before *discovery.Resource, r configv1.Resource) (*discovery.Resource, error) {
	if before != nil && before.GetVersion() == r.Version {
		return before, nil
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r.Message)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", r.Key, err)
	}
	if len(b) > maxResource {
		return nil, fmt.Errorf("%s takes %d bytes, more than the %d that can be sent", r.Key, len(b), maxResource)
	}
	return &discovery.Resource{
		Name: r.Name, Version: r.Version, Resource: &anypb.Any{TypeUrl: r.Type, Value: b},
	}, nil
}

// hashLists combines base with the lists' hashes, in the order of their types.
func hashLists(base string, l lists) string {
	h := sha256.New()
	h.Write([]byte(base))
	types := make([]string, 0, len(l.types))
	for typ := range l.types {
		types = append(types, typ)
	}
	slices.Sort(types)
	for _, typ := range types {
		h.Write([]byte("\x00" + typ + "\x00" + l.types[typ].hash))
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}
