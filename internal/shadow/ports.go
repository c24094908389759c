package shadow

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
)

// Range is a range of port numbers, both ends included.
type Range struct{ First, Last int32 }

// portRanges are where target ports come from. 15000-15999 are the proxy's own, and 32768-60999 are the ephemeral ports
// of Linux: a port of those may be taken by an outgoing connection just when it is to be bound.
func portRanges() []Range {
	return []Range{{1024, 14999}, {16000, 32767}, {61000, 65535}}
}

func usable(port int32, ranges []Range) bool {
	return slices.ContainsFunc(ranges, func(r Range) bool { return port >= r.First && port <= r.Last })
}

// book has the target ports that are taken. All proxies listen on all of them, so they are unique in the mesh.
type book struct {
	busy   map[PortKey]bool
	taken  map[PortKey]bool
	ranges []Range
}

// newBook takes target ports from within a range, or from wherever a proxy may bind one if that is the zero value.
func newBook(busy map[PortKey]bool, within Range) *book {
	b := &book{busy: busy, taken: map[PortKey]bool{}, ranges: portRanges()}
	if within != (Range{}) {
		b.ranges = []Range{within}
	}
	return b
}

// claim takes a port that is already in use by its owner; false if it may not stay.
func (b *book) claim(port int32, udp bool) bool {
	k := PortKey{Number: port, UDP: udp}
	if !usable(port, b.ranges) || b.busy[k] || b.taken[k] {
		return false
	}
	b.taken[k] = true
	return true
}

// assign takes a free port for an owner's port, always the same one if it is free; false if there is none left.
func (b *book) assign(owner string, key PortKey) (int32, bool) {
	size := int32(0)
	for _, r := range b.ranges {
		size += r.Last - r.First + 1
	}
	if size < 1 {
		return 0, false
	}
	h := sha256.Sum256([]byte(owner + "\x00" + key.name()))
	start := int32(binary.BigEndian.Uint32(h[:4]) % uint32(size))
	for i := range size {
		if port := b.nth((start + i) % size); b.claim(port, key.UDP) {
			return port, true
		}
	}
	return 0, false
}

// nth is the n-th usable port.
func (b *book) nth(n int32) int32 {
	for _, r := range b.ranges {
		if size := r.Last - r.First + 1; n >= size {
			n -= size
		} else {
			return r.First + n
		}
	}
	return 0
}

// recorded returns the target ports that a shadow Service holds, valid or not. The port must have the name that we
// gave it.
func recorded(s *corev1.Service) map[PortKey]int32 {
	out := make(map[PortKey]int32, len(s.Spec.Ports))
	for _, p := range s.Spec.Ports {
		k := PortKey{Number: p.Port, UDP: p.Protocol == corev1.ProtocolUDP}
		if p.Name == k.name() {
			out[k] = p.TargetPort.IntVal
		}
	}
	return out
}

// claimed returns, for every shadow Service by name, which of its recorded target ports are its own: the older Service
// wins, the shared one first of all. Observe and Plan agree because both ask here. Orphans count, too: until they are
// gone their addresses still lead to their target ports, which must not be another service's.
func claimed(services map[string]*corev1.Service, held map[string]map[PortKey]int32, b *book) map[string]map[PortKey]int32 {
	names := slices.SortedFunc(maps.Keys(held), func(x, y string) int {
		return cmp.Or(cmp.Compare(rank(services[x]), rank(services[y])), cmp.Compare(x, y))
	})
	out := make(map[string]map[PortKey]int32, len(names))
	for _, name := range names {
		own := make(map[PortKey]int32, len(held[name]))
		for _, k := range sortedKeys(held[name]) {
			if b.claim(held[name][k], k.UDP) {
				own[k] = held[name][k]
			}
		}
		out[name] = own
	}
	return out
}

// rank is when a Service was created; one that is missing comes last, the shared one first.
func rank(s *corev1.Service) int64 {
	switch {
	case s == nil:
		return 1 << 62
	case s.Name == SharedName:
		return -1 << 62
	default:
		return s.CreationTimestamp.Unix()
	}
}

func sortedKeys(m map[PortKey]int32) []PortKey {
	return slices.SortedFunc(maps.Keys(m), PortKey.Compare)
}

// parsePortName is the inverse of PortKey.name.
func parsePortName(name string) (PortKey, bool) {
	if len(name) < 5 || name[:4] != "tcp-" && name[:4] != "udp-" {
		return PortKey{}, false
	}
	n, err := strconv.ParseUint(name[4:], 10, 16)
	return PortKey{Number: int32(n), UDP: name[:3] == "udp"}, err == nil && n > 0
}
