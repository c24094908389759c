package shadow

import (
	"maps"
	"net/netip"
	"slices"

	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/tulle-mesh/tulle/internal/topology"
)

// Observe reads the mesh addresses of a topology's units back from the cluster. It needs no clock and no settings, so
// all replicas that see the same objects agree. A unit without an address and a target port is not in the result.
func Observe(t topology.Topology, s State) Assigned {
	h := index(s)
	own := claimed(h.services, h.targets, newBook(nil, Range{}))
	out := Assigned{Units: make(map[Unit]Assignment, len(t.Services))}
	shared := h.services[SharedName]
	var sharedAddresses []netip.Addr
	if shared != nil {
		sharedAddresses = addresses(shared)
		for _, k := range sortedKeys(own[SharedName]) {
			out.Shared = append(out.Shared, SharedPort{Port: k.Number, TargetPort: own[SharedName][k]})
		}
	}
	for _, w := range wants(t) {
		a := Assignment{Unit: w.unit, TargetPorts: map[PortKey]int32{}}
		for _, k := range w.ports {
			if target, ok := own[w.name][k]; ok {
				a.TargetPorts[k] = target
			}
		}
		svc := h.services[w.name]
		dedicated := svc != nil && h.reached(w.name)
		switch {
		case dedicated && serving(svc):
			a.Addresses = addresses(svc)
		case h.members.has(w) && h.served(SharedName, w.ports):
			a.Addresses, a.Shared = sharedAddresses, true
		case dedicated:
			// It is on its way in or out, but the shared address is not there: better than none.
			a.Addresses = addresses(svc)
		}
		if len(a.Addresses) > 0 || len(a.TargetPorts) > 0 {
			out.Units[w.unit] = a
		}
	}
	return out
}

// Equal says whether two observations are the same.
func (a Assigned) Equal(b Assigned) bool {
	return slices.Equal(a.Shared, b.Shared) && maps.EqualFunc(a.Units, b.Units, func(x, y Assignment) bool {
		return x.Unit == y.Unit && x.Shared == y.Shared && x.Bind == y.Bind && slices.Equal(x.Addresses, y.Addresses) && maps.Equal(x.TargetPorts, y.TargetPorts)
	})
}

// reached says whether a shadow Service has endpoints at all: its address is not told before, as the first call would
// be refused. A port more or less doesn't take the address back.
func (h held) reached(name string) bool {
	return slices.ContainsFunc(h.slices[name], func(sl *discoveryv1.EndpointSlice) bool { return len(sl.Endpoints) > 0 })
}

// InSlices returns the names of the proxy pods that any mesh address leads to. A proxy that is to end goes on accepting
// while it is one of them.
func InSlices(s State, proxies []Proxy) map[string]bool {
	found := map[string]bool{}
	seen := map[listKey]bool{}
	for _, sl := range s.Slices {
		// Slices of the same endpoints share one list (see kube.Source), which need not be read again.
		if len(sl.Endpoints) == 0 || seen[keyOf(sl.Endpoints)] {
			continue
		}
		seen[keyOf(sl.Endpoints)] = true
		for _, e := range sl.Endpoints {
			for _, a := range e.Addresses {
				found[a] = true
			}
		}
	}
	out := map[string]bool{}
	for _, p := range proxies {
		if slices.ContainsFunc(p.Addresses, func(a netip.Addr) bool { return found[a.String()] }) {
			out[p.Pod] = true
		}
	}
	return out
}
