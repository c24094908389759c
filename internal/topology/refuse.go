package topology

import (
	"net/netip"

	discoveryv1 "k8s.io/api/discovery/v1"
)

// refusal says why endpoints get no traffic, as a part of a sentence. Whoever may write an EndpointSlice could otherwise
// make the proxies, which stand behind no NetworkPolicy of the target, reach what the writer may not.
type refusal string

const (
	noAddress    refusal = "without an IP address"
	badPort      refusal = "with a number that is no port"
	noUnicast    refusal = "with an unspecified, broadcast or multicast address"
	ofProxy      refusal = "with an address of the mesh's own namespace"
	isLoopback   refusal = "with a loopback address"
	isLinkLocal  refusal = "with a link-local address"
	ofAPIServer  refusal = "with an address of the API server"
	ofNode       refusal = "with an address of a node, as pods with hostNetwork have,"
	ofService    refusal = "with the address of a Service"
	ofForeignPod refusal = "with the address of a pod of another namespace"
	unknownPod   refusal = "that claim to be a pod which does not exist"
	unknownRange refusal = "in the cluster's pod or service ranges without being a pod of their namespace"
)

// advice ends the sentence, where there is any.
func (r refusal) advice() string {
	switch r {
	case isLoopback, isLinkLocal, ofAPIServer, ofNode, ofService, ofForeignPod, unknownRange:
		return "; only the mesh's administrator can allow them"
	}
	return ""
}

// refusals keeps one example of each kind: a service may have thousands of refused endpoints.
type refusals map[refusal]string

// add keeps the smallest example, so that the order of the objects does not matter.
func (r refusals) add(kind refusal, example string) {
	if had, ok := r[kind]; !ok || example < had {
		r[kind] = example
	}
}

// accept returns the address of an endpoint, unless it is refused or not known yet. Of several addresses only the first
// counts: they all mean the same endpoint.
func (b *builder) accept(slice *discoveryv1.EndpointSlice, e *discoveryv1.Endpoint, refused refusals) (netip.Addr, bool) {
	if len(e.Addresses) == 0 {
		return netip.Addr{}, false
	}
	addr, ok := parseAddr(e.Addresses[0])
	if !ok {
		refused.add(noAddress, e.Addresses[0])
		return netip.Addr{}, false
	}
	kind := b.judge(addr, slice, e)
	if kind == unknownPod && slice.Labels[discoveryv1.LabelManagedBy] == "endpointslice-controller.k8s.io" {
		return netip.Addr{}, false // the pod itself has not been seen yet
	}
	if kind != "" {
		refused.add(kind, addr.String())
	}
	return addr, kind == ""
}

// judge says why an address is refused, if it is.
func (b *builder) judge(addr netip.Addr, slice *discoveryv1.EndpointSlice, e *discoveryv1.Endpoint) refusal {
	x := &b.index
	pod := x.pods[addr]
	foreign := pod != nil && pod.Namespace != slice.Namespace && !b.config.ForeignPods
	switch {
	case addr.IsUnspecified() || addr.IsMulticast() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return noUnicast
	case pod != nil && pod.Namespace == b.config.MeshNamespace:
		return ofProxy // even if allowed: a request would go round in circles
	case foreign && x.allowed.contains(addr):
		return ofForeignPod // a range that is allowed lets nobody reach the pods of others in it
	case x.allowed.contains(addr):
		return ""
	case addr.IsLoopback():
		return isLoopback
	case addr.IsLinkLocalUnicast():
		return isLinkLocal
	case x.cluster[addr] != "":
		return x.cluster[addr]
	case foreign:
		return ofForeignPod
	case pod != nil:
		return ""
	case namesPod(slice, e):
		return unknownPod
	case x.ranges.contains(addr):
		return unknownRange
	}
	return ""
}
