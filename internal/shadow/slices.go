package shadow

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// endpoints are the proxies that mesh addresses lead to: one per node. The one that is in the slices already stays
// until it is no longer ready, so that a proxy that is replaced (the new one is ready before the old one goes) costs one
// write per Service, and not one for its coming and another for its going.
type endpoints struct {
	families []*family
}

// family are the endpoints of one address family.
type family struct {
	kind   discoveryv1.AddressType
	suffix string
	nodes  []string                        // sorted
	byNode map[string]discoveryv1.Endpoint // of the nodes
	size   int                             // of a slice
	// placed remembers what became of lists of endpoints: all Services have the same ones, most of the time.
	placed map[listsKey][]fixedList
}

type fixedList struct {
	list []discoveryv1.Endpoint
	same bool
}

// listKey identifies a list of endpoints by where it is: equal lists are often the same one.
type listKey struct {
	first *discoveryv1.Endpoint
	n     int
}

func keyOf(list []discoveryv1.Endpoint) listKey {
	if len(list) == 0 {
		return listKey{}
	}
	return listKey{&list[0], len(list)}
}

// listsKey identifies the lists of several slices.
type listsKey struct {
	slices int
	lists  [16]listKey
}

// newEndpoints chooses the proxies. If no proxy is ready at all, those that are in the slices and whose pods still
// exist stay: a proxy that is told to end, or whose readiness fails, serves on in most cases, and an empty slice serves
// never. What is gone is taken out: its address may be another pod's soon.
func newEndpoints(size int, s State, proxies []Proxy) *endpoints {
	uses := countUses(s)
	anyReady := slices.ContainsFunc(proxies, func(p Proxy) bool { return p.Ready })
	chosen := map[string]Proxy{} // by node
	for _, p := range proxies {
		if p.Node == "" || len(p.Addresses) == 0 || p.Ready != anyReady || !anyReady && uses.of(p) == 0 {
			continue
		}
		if old, ok := chosen[p.Node]; !ok || cmp.Or(cmp.Compare(uses.of(old), uses.of(p)), cmp.Compare(p.Pod, old.Pod)) < 0 {
			chosen[p.Node] = p
		}
	}
	v4 := &family{kind: discoveryv1.AddressTypeIPv4, suffix: "v4", size: size, byNode: map[string]discoveryv1.Endpoint{}, placed: map[listsKey][]fixedList{}}
	v6 := &family{kind: discoveryv1.AddressTypeIPv6, suffix: "v6", size: size, byNode: map[string]discoveryv1.Endpoint{}, placed: map[listsKey][]fixedList{}}
	for node, p := range chosen {
		for _, a := range p.Addresses {
			f := v4
			if a.Is6() {
				f = v6
			}
			if _, second := f.byNode[node]; !second {
				f.byNode[node] = endpoint(p, a)
			}
		}
	}
	e := &endpoints{families: []*family{v4, v6}}
	for _, f := range e.families {
		f.nodes = slices.Sorted(maps.Keys(f.byNode))
	}
	return e
}

// uses counts how many slices an address is in.
type uses map[string]int

func (u uses) of(p Proxy) int {
	n := 0
	for _, a := range p.Addresses {
		n += u[a.String()]
	}
	return n
}

func countUses(s State) uses {
	times, lists := map[listKey]int{}, map[listKey][]discoveryv1.Endpoint{}
	for _, sl := range s.Slices {
		if len(sl.Endpoints) > 0 {
			k := keyOf(sl.Endpoints)
			times[k]++
			lists[k] = sl.Endpoints
		}
	}
	u := uses{}
	for k, list := range lists {
		for _, e := range list {
			for _, a := range e.Addresses {
				u[a] += times[k]
			}
		}
	}
	return u
}

// endpoint says as little as possible: there are services times nodes of them, and all of a slice is written, sent to
// every node and kept in memory by whoever watches slices. A targetRef would be a third of it, and nobody reads it.
func endpoint(p Proxy, a netip.Addr) discoveryv1.Endpoint {
	ready, node := true, p.Node
	e := discoveryv1.Endpoint{
		Addresses:  []string{a.String()},
		Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		NodeName:   &node,
		Hints:      &discoveryv1.EndpointHints{ForNodes: []discoveryv1.ForNode{{Name: node}}},
	}
	if p.Zone != "" {
		zone := p.Zone
		e.Zone = &zone
		e.Hints.ForZones = []discoveryv1.ForZone{{Name: zone}}
	}
	return e
}

// slices plans the EndpointSlices of a shadow Service.
func (p *planner) slices(service string, targets map[PortKey]int32) {
	ports := slicePortsOf(targets)
	for _, f := range p.endpoints.families {
		p.family(f, service, ports)
	}
}

func slicePortsOf(targets map[PortKey]int32) []discoveryv1.EndpointPort {
	out := make([]discoveryv1.EndpointPort, 0, len(targets))
	for _, k := range sortedKeys(targets) {
		name, protocol, port := k.name(), k.protocol(), targets[k]
		out = append(out, discoveryv1.EndpointPort{Name: &name, Protocol: &protocol, Port: &port})
	}
	return out
}

// family plans a Service's slices of one address family. Endpoints stay in the slice where they are.
func (p *planner) family(f *family, service string, ports []discoveryv1.EndpointPort) {
	var old []*discoveryv1.EndpointSlice
	for _, sl := range p.held.slices[service] {
		if sl.AddressType == f.kind {
			old = append(old, sl)
		}
	}
	lists := f.place(old)
	for i, sl := range old {
		switch {
		case len(lists[i].list) == 0:
			p.changes.DeleteSlices = append(p.changes.DeleteSlices, sl)
		case !lists[i].same || !holdsSlice(sl, service, ports):
			next := &discoveryv1.EndpointSlice{ObjectMeta: *sl.ObjectMeta.DeepCopy(), AddressType: f.kind}
			p.fillSlice(next, service, ports, lists[i].list)
			p.changes.UpdateSlices = append(p.changes.UpdateSlices, next)
		}
	}
	taken := map[string]bool{}
	for _, sl := range old {
		taken[sl.Name] = true
	}
	n := 0
	for _, l := range lists[len(old):] {
		name := ""
		for ok := true; ok; ok = taken[name] {
			n++
			name = fmt.Sprintf("%s-%s-%d", service, f.suffix, n)
		}
		sl := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: p.cfg.Namespace, Name: name}, AddressType: f.kind}
		p.fillSlice(sl, service, ports, l.list)
		p.changes.CreateSlices = append(p.changes.CreateSlices, sl)
	}
}

// place returns the endpoints of every old slice as they should be, and the lists of further slices. It is worked out
// once for all Services that have the same lists.
func (f *family) place(old []*discoveryv1.EndpointSlice) []fixedList {
	k := listsKey{slices: len(old)}
	if len(old) > len(k.lists) {
		return f.placeAll(old)
	}
	for i, sl := range old {
		k.lists[i] = keyOf(sl.Endpoints)
	}
	lists, ok := f.placed[k]
	if !ok {
		lists = f.placeAll(old)
		f.placed[k] = lists
	}
	return lists
}

func (f *family) placeAll(old []*discoveryv1.EndpointSlice) []fixedList {
	placed := make(map[string]bool, len(f.nodes))
	out := make([]fixedList, 0, len(old)+1)
	for _, sl := range old {
		list := make([]discoveryv1.Endpoint, 0, len(sl.Endpoints))
		for _, e := range sl.Endpoints {
			node := ""
			if e.NodeName != nil {
				node = *e.NodeName
			}
			if want, ok := f.byNode[node]; ok && !placed[node] && len(list) < f.size {
				placed[node] = true
				list = append(list, want)
			}
		}
		out = append(out, fixedList{list: list})
	}
	at := 0
	for _, node := range f.nodes {
		if placed[node] {
			continue
		}
		for at < len(out) && len(out[at].list) >= f.size {
			at++
		}
		if at == len(out) {
			out = append(out, fixedList{})
		}
		out[at].list = append(out[at].list, f.byNode[node])
	}
	for i, sl := range old {
		out[i].same = sameEndpoints(sl.Endpoints, out[i].list)
	}
	return out
}

// sameEndpoints compares what is held with what should be. An API server that doesn't know node hints drops them all:
// writing them again would not end.
func sameEndpoints(held, want []discoveryv1.Endpoint) bool {
	dropped := !slices.ContainsFunc(held, func(e discoveryv1.Endpoint) bool { return e.Hints != nil && len(e.Hints.ForNodes) > 0 })
	return equalEndpoints(held, want, dropped)
}

// EqualEndpoints compares lists of endpoints.
func EqualEndpoints(a, b []discoveryv1.Endpoint) bool { return equalEndpoints(a, b, false) }

func equalEndpoints(a, b []discoveryv1.Endpoint, butHints bool) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a, b := &a[i], &b[i]; !sameEndpoint(a, b) || !butHints && !sameHints(a.Hints, b.Hints) {
			return false
		}
	}
	return true
}

// sameEndpoint compares all but the hints. It is written out because reflection takes 20 us for an endpoint, and there
// are services times nodes of them.
func sameEndpoint(a, b *discoveryv1.Endpoint) bool {
	return slices.Equal(a.Addresses, b.Addresses) && same(a.NodeName, b.NodeName) && same(a.Zone, b.Zone) && same(a.Hostname, b.Hostname) &&
		maps.Equal(a.DeprecatedTopology, b.DeprecatedTopology) && same(a.TargetRef, b.TargetRef) && same(a.Conditions.Ready, b.Conditions.Ready) &&
		same(a.Conditions.Serving, b.Conditions.Serving) && same(a.Conditions.Terminating, b.Conditions.Terminating)
}

func sameHints(a, b *discoveryv1.EndpointHints) bool {
	if a == nil || b == nil {
		return a == b
	}
	return slices.Equal(a.ForNodes, b.ForNodes) && slices.Equal(a.ForZones, b.ForZones)
}

func sliceLabels(service string) map[string]string {
	return map[string]string{
		"app.kubernetes.io/name":       "tulle",
		"app.kubernetes.io/component":  "proxy",
		"app.kubernetes.io/managed-by": ManagedBy,
		discoveryv1.LabelManagedBy:     ManagedBy,
		discoveryv1.LabelServiceName:   service,
	}
}

func (p *planner) fillSlice(sl *discoveryv1.EndpointSlice, service string, ports []discoveryv1.EndpointPort, list []discoveryv1.Endpoint) {
	if sl.Labels == nil {
		sl.Labels = map[string]string{}
	}
	maps.Copy(sl.Labels, sliceLabels(service))
	sl.Ports, sl.Endpoints = ports, list
}

func holdsSlice(sl *discoveryv1.EndpointSlice, service string, ports []discoveryv1.EndpointPort) bool {
	for k, v := range sliceLabels(service) {
		if sl.Labels[k] != v {
			return false
		}
	}
	return slices.EqualFunc(sl.Ports, ports, func(a, b discoveryv1.EndpointPort) bool {
		return same(a.Name, b.Name) && same(a.Protocol, b.Protocol) && same(a.Port, b.Port)
	})
}
