package topology

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/tulle-mesh/tulle/internal/problem"
)

// addEndpoints fills the ports of s from the EndpointSlices of svc and returns the names of the pods behind them, ready
// or not.
func (b *builder) addEndpoints(svc *corev1.Service, s *Service, set settings) []string {
	var podNames []string
	external := "" // an example of a protected endpoint that is no pod
	refused := refusals{}
	for _, slice := range b.index.slices[s.Name] {
		targets := portsOf(slice, s.Ports, refused)
		if len(targets) == 0 {
			continue
		}
		for i := range slice.Endpoints {
			e, in := b.endpoint(slice, &slice.Endpoints[i], set.account, refused)
			if in && e.Protected && e.Pod == "" && (external == "" || e.Address.String() < external) {
				external = e.Address.String()
			}
			if e.Pod != "" {
				podNames = append(podNames, e.Pod)
			}
			b.expose(slice, &slice.Endpoints[i], e, targets, s.Ports)
			for _, t := range targets {
				if e.Port = t.port; in {
					s.Ports[t.index].Endpoints = append(s.Ports[t.index].Endpoints, e)
				}
			}
		}
	}
	for i := range s.Ports {
		s.Ports[i].Endpoints = sortEndpoints(s.Ports[i].Endpoints)
	}
	for kind, example := range refused {
		b.report(serviceRef(svc), problem.EndpointRefused, "endpoints %s get no traffic (%s is one)%s", kind, problem.Quote(example), kind.advice())
	}
	if external != "" {
		b.reportExternal(svc, external, set.account)
	}
	return podNames
}

// expose notes what an enforced endpoint serves, also while it is not ready: it may be called all the same.
func (b *builder) expose(slice *discoveryv1.EndpointSlice, in *discoveryv1.Endpoint, e Endpoint, targets []target, ports []Port) {
	if !e.Protected || b.access.of(e.Workload) != AccessEnforce {
		return
	}
	x := Exposed{Workload: e.Workload}
	if pod := b.podOf(slice, in, e.Address); pod != nil {
		x.Pod = Name{pod.Namespace, pod.Name}
	}
	for _, t := range targets {
		x.Port, x.UDP = t.port, ports[t.index].Protocol == UDP
		b.exposed = append(b.exposed, x)
	}
}

// target is the port number behind the port of a service with the index.
type target struct {
	index int
	port  int32
}

// portsOf says which ports of a service a slice has endpoints for, and where: a named targetPort has a slice of its own
// for each number that the pods give it.
func portsOf(slice *discoveryv1.EndpointSlice, ports []Port, refused refusals) []target {
	var out []target
	for _, sp := range slice.Ports {
		if sp.Port == nil {
			continue
		}
		name, udp := "", false
		if sp.Name != nil {
			name = *sp.Name
		}
		if sp.Protocol != nil {
			udp = *sp.Protocol == corev1.ProtocolUDP
			if !udp && *sp.Protocol != corev1.ProtocolTCP {
				continue
			}
		}
		for i, p := range ports {
			if p.Name != name || (p.Protocol == UDP) != udp {
				continue
			}
			if *sp.Port < 1 || *sp.Port > 65535 {
				refused.add(badPort, strconv.Itoa(int(*sp.Port)))
				continue
			}
			out = append(out, target{index: i, port: *sp.Port})
		}
	}
	return out
}

// endpoint derives an endpoint without its port; the second result says whether it takes part. An endpoint that ends is
// kept as draining, ready or not, so that what runs on it may end, too.
func (b *builder) endpoint(slice *discoveryv1.EndpointSlice, in *discoveryv1.Endpoint, account string, refused refusals) (Endpoint, bool) {
	addr, ok := b.accept(slice, in, refused)
	if !ok {
		return Endpoint{}, false
	}
	e := Endpoint{Address: addr, Draining: isTrue(in.Conditions.Terminating, false)}
	if in.NodeName != nil {
		e.Node = *in.NodeName
	}
	if in.Zone != nil {
		e.Zone = *in.Zone
	}
	pod := b.podOf(slice, in, addr)
	switch {
	case pod != nil && pod.Namespace == slice.Namespace:
		e.Pod, e.Node = pod.Name, cmp.Or(pod.Spec.NodeName, e.Node)
	case namesPod(slice, in):
		e.Pod = in.TargetRef.Name
	}
	e.Workload = Name{slice.Namespace, account}
	if pod != nil {
		e.Workload, e.HostNetwork = workloadName(pod), pod.Spec.HostNetwork
	}
	e.Protected = b.access.of(e.Workload) != AccessOff
	return e, e.Draining || isTrue(in.Conditions.Ready, true)
}

// podOf is the pod behind an address. Whoever writes an EndpointSlice can put any pod's name into it, so only the address
// counts, and for pods of the node's network that the name and the address agree.
func (b *builder) podOf(slice *discoveryv1.EndpointSlice, in *discoveryv1.Endpoint, addr netip.Addr) *corev1.Pod {
	if pod := b.index.pods[addr]; pod != nil {
		return pod
	}
	if !namesPod(slice, in) {
		return nil
	}
	pod := b.index.named(Name{slice.Namespace, in.TargetRef.Name})
	if pod == nil {
		return nil
	}
	addrs := podAddrs(pod)
	if slices.Contains(addrs, addr) || b.config.TrustTargetRefs && len(addrs) == 0 {
		return pod
	}
	return nil
}

func isTrue(b *bool, unset bool) bool {
	if b == nil {
		return unset
	}
	return *b
}

// namesPod says whether the endpoint claims to be a pod of its own namespace.
func namesPod(slice *discoveryv1.EndpointSlice, e *discoveryv1.Endpoint) bool {
	ref := e.TargetRef
	return ref != nil && ref.Kind == "Pod" && (ref.Namespace == "" || ref.Namespace == slice.Namespace)
}

// sortEndpoints also removes doubles: an endpoint may be in two slices while it moves from one to the other. One that
// is not draining stays.
func sortEndpoints(list []Endpoint) []Endpoint {
	draining := func(e Endpoint) int {
		if e.Draining {
			return 1
		}
		return 0
	}
	slices.SortFunc(list, func(a, b Endpoint) int {
		return cmp.Or(
			a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port), cmp.Compare(draining(a), draining(b)),
			cmp.Compare(a.Node, b.Node), cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.Pod, b.Pod),
		)
	})
	return slices.CompactFunc(list, func(a, b Endpoint) bool { return a.Address == b.Address && a.Port == b.Port })
}
