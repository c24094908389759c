package topology

import (
	"cmp"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// index finds objects by what refers to them.
type index struct {
	services map[Name]*corev1.Service
	slices   map[Name][]*discoveryv1.EndpointSlice // by the Service's name
	pods     map[netip.Addr]*corev1.Pod            // the pod that has an address of the pod network
	own      []addressed                           // the pods that claim such addresses
	all      []*corev1.Pod
	byName   map[Name]*corev1.Pod   // of all; made when it is first asked for
	cluster  map[netip.Addr]refusal // the API server's, the nodes' and the Services' addresses
	ranges   prefixSet              // pod and service ranges
	allowed  prefixSet
}

// addressed is a pod with its addresses.
type addressed struct {
	pod   *corev1.Pod
	addrs []netip.Addr
}

func newIndex(c Config, r Resources) index {
	x := index{
		services: make(map[Name]*corev1.Service, len(r.Services)),
		slices:   make(map[Name][]*discoveryv1.EndpointSlice, len(r.EndpointSlices)),
		pods:     make(map[netip.Addr]*corev1.Pod, len(r.Pods)),
		own:      make([]addressed, 0, len(r.Pods)),
		all:      r.Pods,
		cluster:  make(map[netip.Addr]refusal, len(r.Nodes)+len(r.Services)),
		ranges:   newPrefixSet(c.PodCIDRs, c.ServiceCIDRs),
		allowed:  newPrefixSet(c.AllowedEndpoints),
	}
	// Of an address that is several things, the last one that is set here is what a Problem calls it.
	for _, svc := range r.Services {
		x.services[Name{svc.Namespace, svc.Name}] = svc
		for _, ip := range clusterIPs(svc) {
			x.cluster[ip] = ofService
		}
	}
	for _, n := range r.Nodes {
		x.addNode(n)
	}
	for _, s := range r.EndpointSlices {
		x.addSlice(s)
	}
	for _, p := range r.Pods {
		x.addPod(p)
	}
	return x
}

func (x *index) addSlice(s *discoveryv1.EndpointSlice) {
	of := Name{s.Namespace, s.Labels[discoveryv1.LabelServiceName]}
	x.slices[of] = append(x.slices[of], s)
	if of != (Name{"default", "kubernetes"}) {
		return
	}
	for i := range s.Endpoints {
		for _, text := range s.Endpoints[i].Addresses {
			if a, ok := parseAddr(text); ok {
				x.cluster[a] = ofAPIServer
			}
		}
	}
}

func (x *index) addNode(n *corev1.Node) {
	for _, a := range n.Status.Addresses {
		if a, ok := parseAddr(a.Address); ok {
			x.cluster[a] = ofNode
		}
	}
	for _, text := range append([]string{n.Spec.PodCIDR}, n.Spec.PodCIDRs...) {
		if p, err := netip.ParsePrefix(text); err == nil {
			x.ranges.add(p)
		}
	}
}

// addPod keeps one pod for each address: an address of a pod that ended may be another's by now.
func (x *index) addPod(p *corev1.Pod) {
	if !hasAddress(p) {
		return
	}
	addrs := podAddrs(p)
	x.own = append(x.own, addressed{p, addrs})
	for _, a := range addrs {
		if had := x.pods[a]; had == nil || newer(p, had) {
			x.pods[a] = p
		}
	}
}

// named returns a pod by its name. Few endpoints need it.
func (x *index) named(n Name) *corev1.Pod {
	if x.byName == nil {
		x.byName = make(map[Name]*corev1.Pod, len(x.all))
		for _, p := range x.all {
			if p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
				x.byName[Name{p.Namespace, p.Name}] = p
			}
		}
	}
	return x.byName[n]
}

// hasAddress says whether p has addresses of its own that are in use.
func hasAddress(p *corev1.Pod) bool {
	return !p.Spec.HostNetwork && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
}

// newer says which of two pods that claim one address has it.
func newer(a, b *corev1.Pod) bool {
	if (a.DeletionTimestamp == nil) != (b.DeletionTimestamp == nil) {
		return a.DeletionTimestamp == nil
	}
	return cmp.Or(
		a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
		-cmp.Compare(a.Namespace, b.Namespace),
		-cmp.Compare(a.Name, b.Name),
	) > 0
}

func podAddrs(p *corev1.Pod) []netip.Addr {
	out := make([]netip.Addr, 0, 2)
	for _, ip := range p.Status.PodIPs {
		if a, ok := parseAddr(ip.IP); ok {
			out = append(out, a)
		}
	}
	if a, ok := parseAddr(p.Status.PodIP); ok && len(out) == 0 {
		out = append(out, a)
	}
	return out
}

// clusterIPs of a headless service are none.
func clusterIPs(svc *corev1.Service) []netip.Addr {
	texts := svc.Spec.ClusterIPs
	if len(texts) == 0 {
		texts = []string{svc.Spec.ClusterIP}
	}
	var out []netip.Addr
	for _, text := range texts {
		if a, ok := parseAddr(text); ok {
			out = append(out, a)
		}
	}
	return out
}

// parseAddr gives every address one form: an IPv4 address written as IPv6 is an IPv4 address, a zone is dropped.
func parseAddr(text string) (netip.Addr, bool) {
	if text == "" {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(text)
	return a.Unmap().WithZone(""), err == nil
}

// prefixSet finds out whether an address is in one of many prefixes in a look-up for each length that occurs.
type prefixSet struct {
	bits     map[int]bool
	prefixes map[netip.Prefix]bool
}

func newPrefixSet(lists ...[]netip.Prefix) prefixSet {
	s := prefixSet{bits: map[int]bool{}, prefixes: map[netip.Prefix]bool{}}
	for _, list := range lists {
		for _, p := range list {
			s.add(p)
		}
	}
	return s
}

func (s prefixSet) add(p netip.Prefix) {
	if p.IsValid() {
		s.bits[p.Bits()] = true
		s.prefixes[p.Masked()] = true
	}
}

func (s prefixSet) contains(a netip.Addr) bool {
	for bits := range s.bits {
		if p, err := a.Prefix(bits); err == nil && s.prefixes[p] {
			return true
		}
	}
	return false
}
