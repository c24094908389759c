package shadow

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"slices"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/topology"
)

// Compare orders units by namespace, name and pod.
func (u Unit) Compare(o Unit) int {
	return cmp.Or(cmp.Compare(u.Namespace, o.Namespace), cmp.Compare(u.Name.Name, o.Name.Name), cmp.Compare(u.Pod, o.Pod))
}

func (u Unit) String() string {
	if u.Pod == "" {
		return u.Name.String()
	}
	return u.Name.String() + "/" + u.Pod
}

// Compare orders port keys by number, TCP before UDP.
func (k PortKey) Compare(o PortKey) int {
	if c := cmp.Compare(k.Number, o.Number); c != 0 || k.UDP == o.UDP {
		return c
	}
	if k.UDP {
		return 1
	}
	return -1
}

// name is the port's name in shadow Services and their slices.
func (k PortKey) name() string {
	if k.UDP {
		return "udp-" + strconv.Itoa(int(k.Number))
	}
	return "tcp-" + strconv.Itoa(int(k.Number))
}

// hashLength is 100 bits in base 32.
const hashLength = 20

// ServiceName returns the name of the unit's dedicated shadow Service: 100 bits of a hash over the parts with their
// borders, so that no two units share one (a-b/c and a/b-c) and the length of their names doesn't matter.
func ServiceName(u Unit) string {
	h := sha256.Sum256([]byte(u.Namespace + "\x00" + u.Name.Name + "\x00" + u.Pod))
	return "tulle-" + strings.ToLower(base32.StdEncoding.EncodeToString(h[:])[:hashLength])
}

// want is what a unit should have.
type want struct {
	unit   Unit
	name   string    // of its dedicated shadow Service
	ports  []PortKey // sorted
	http   bool      // nothing but HTTP ports: the shared address can serve it
	shared bool      // by the service's annotation
	own    bool      // dedicated, by the service's annotation
}

// wants lists the units of a topology that have a mesh address, sorted.
func wants(t topology.Topology) []want {
	out := make([]want, 0, len(t.Services))
	for _, s := range t.Services {
		if s.Backend || len(s.Ports) == 0 {
			continue
		}
		u := Unit{Name: s.Name, Pod: s.Pod}
		w := want{unit: u, name: ServiceName(u), http: true, shared: s.Shared, own: s.Dedicated, ports: make([]PortKey, 0, len(s.Ports))}
		for _, p := range s.Ports {
			w.ports = append(w.ports, PortKey{Number: p.Number, UDP: p.Protocol == topology.UDP})
			w.http = w.http && p.Protocol == topology.HTTP
		}
		slices.SortFunc(w.ports, PortKey.Compare)
		w.ports = slices.Compact(w.ports)
		out = append(out, w)
	}
	slices.SortFunc(out, func(a, b want) int { return a.unit.Compare(b.unit) })
	return slices.CompactFunc(out, func(a, b want) bool { return a.unit == b.unit })
}

// wantsShared says whether the unit's names should resolve to the shared address. All of a unit's ports have one
// address, as DNS names have no ports: a unit with a TCP or UDP port has its own.
func (w want) wantsShared(all bool) bool { return w.http && !w.own && (w.shared || all) }
