package bypass

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// forIngress says whether a policy has an effect on ingress. One without types has.
func forIngress(p *networkingv1.NetworkPolicy) bool {
	return len(p.Spec.PolicyTypes) == 0 || slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeIngress)
}

// selecting are the policies that select a pod.
func (b *builder) selecting(p *corev1.Pod) []*networkingv1.NetworkPolicy {
	if policies := b.policies[p.Namespace]; policies != nil {
		return policies.matching(p.Labels)
	}
	return nil
}

// isolated says whether a policy that is not ours selects the pod.
func (b *builder) isolated(p *corev1.Pod) bool {
	return slices.ContainsFunc(b.selecting(p), func(x *networkingv1.NetworkPolicy) bool { return !Ours(x, b.Namespace) })
}

// opens says whether a rule's ports, where none means all, hold a port of a pod.
func opens(rule []networkingv1.NetworkPolicyPort, p *corev1.Pod, port Port) bool {
	return len(rule) == 0 || slices.ContainsFunc(rule, func(r networkingv1.NetworkPolicyPort) bool {
		protocol := corev1.ProtocolTCP
		if r.Protocol != nil {
			protocol = *r.Protocol
		}
		switch {
		case protocol != port.protocol():
			return false
		case r.Port == nil:
			return true
		case r.Port.Type == intstr.String:
			return named(p, r.Port.StrVal, port)
		case r.EndPort != nil:
			return r.Port.IntVal <= port.Number && port.Number <= *r.EndPort
		}
		return r.Port.IntVal == port.Number
	})
}

// named says whether a port of the pod has the name.
func named(p *corev1.Pod, name string, port Port) bool {
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			for _, c := range list[i].Ports {
				if c.Name == name && c.ContainerPort == port.Number && (c.Protocol == corev1.ProtocolUDP) == port.UDP {
					return true
				}
			}
		}
	}
	return false
}

// who is how much a peer of a policy admits.
type who int

const (
	nobody who = iota
	proxies
	certain // whom the text names
	anybody // everybody, or whoever likes: labels of pods are their owners' to choose
)

// classify says whom a peer admits. A namespace is known by a label that the API server sets, or by labels that only
// those may set who may change Namespaces; a pod of any namespace may have any label.
func (b *builder) classify(namespace string, p networkingv1.NetworkPolicyPeer) (who, string) {
	switch {
	case p.IPBlock != nil:
		return b.block(p.IPBlock)
	case p.NamespaceSelector == nil && p.PodSelector == nil:
		return nobody, ""
	case p.NamespaceSelector == nil:
		return certain, pods(namespace, p.PodSelector)
	case !picks(p.NamespaceSelector):
		if p.PodSelector != nil && picks(p.PodSelector) {
			return anybody, "pods of any namespace with labels of their choice (" + metav1.FormatLabelSelector(p.PodSelector) + ")"
		}
		return anybody, "all pods of the cluster"
	}
	name, is := nameIn(p.NamespaceSelector)
	if !is {
		return certain, pods("namespaces with "+metav1.FormatLabelSelector(p.NamespaceSelector), p.PodSelector)
	}
	if name == b.Namespace && p.PodSelector != nil && holds(p.PodSelector, proxyLabels()) {
		return proxies, ""
	}
	return certain, pods(name, p.PodSelector)
}

// block judges addresses: those that hold all pods are everybody.
func (b *builder) block(block *networkingv1.IPBlock) (who, string) {
	prefix, err := netip.ParsePrefix(block.CIDR)
	if err != nil {
		return nobody, ""
	}
	var except []netip.Prefix
	for _, text := range block.Except {
		if p, err := netip.ParsePrefix(text); err == nil {
			except = append(except, p)
		}
	}
	inside := func(a netip.Addr) bool {
		return prefix.Contains(a) && !slices.ContainsFunc(except, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	if prefix.Bits() == 0 && len(except) == 0 || b.holdsAllPods(inside) {
		return anybody, "all pods of the cluster (" + block.CIDR + ")"
	}
	return certain, block.CIDR
}

// holdsAllPods says whether addresses are those of all pods of the pod network, as far as there are any.
func (b *builder) holdsAllPods(inside func(netip.Addr) bool) bool {
	seen := false
	for _, p := range b.in.Pods {
		if p.Spec.HostNetwork || p.Namespace == b.Namespace {
			continue
		}
		addrs := addresses(p)
		if len(addrs) == 0 {
			continue
		}
		if !slices.ContainsFunc(addrs, inside) {
			return false
		}
		seen = true
	}
	return seen
}

// admitsProber says whether a peer admits whoever tries the way around.
func (b *builder) admitsProber(p networkingv1.NetworkPolicyPeer) bool {
	if p.IPBlock != nil {
		block, err := netip.ParsePrefix(p.IPBlock.CIDR)
		return err == nil && slices.ContainsFunc(b.Prober, block.Contains)
	}
	if p.NamespaceSelector == nil {
		return false
	}
	// A namespace's other labels are not known here, nor are those of the prober's pod.
	name, is := nameIn(p.NamespaceSelector)
	return !is || name == b.Namespace && (p.PodSelector == nil || !holds(p.PodSelector, proxyLabels()))
}

// picks says whether a selector demands anything of whom it selects, and not only that something is absent.
func picks(s *metav1.LabelSelector) bool {
	return len(s.MatchLabels) > 0 || slices.ContainsFunc(s.MatchExpressions, func(e metav1.LabelSelectorRequirement) bool {
		return e.Operator == metav1.LabelSelectorOpIn || e.Operator == metav1.LabelSelectorOpExists
	})
}

// nameIn returns the only namespace that a selector selects, if it does so by name.
func nameIn(s *metav1.LabelSelector) (string, bool) {
	if name, ok := s.MatchLabels[namespaceName]; ok {
		return name, true
	}
	for _, e := range s.MatchExpressions {
		if e.Key == namespaceName && e.Operator == metav1.LabelSelectorOpIn && len(e.Values) == 1 {
			return e.Values[0], true
		}
	}
	return "", false
}

// holds says whether whatever the selector selects has the labels.
func holds(s *metav1.LabelSelector, want map[string]string) bool {
	for key, value := range want {
		if s.MatchLabels[key] == value {
			continue
		}
		if !slices.ContainsFunc(s.MatchExpressions, func(e metav1.LabelSelectorRequirement) bool {
			return e.Key == key && e.Operator == metav1.LabelSelectorOpIn && len(e.Values) == 1 && e.Values[0] == value
		}) {
			return false
		}
	}
	return true
}

// pods names the pods of a namespace that a selector selects.
func pods(namespace string, s *metav1.LabelSelector) string {
	if s == nil || len(s.MatchLabels) == 0 && len(s.MatchExpressions) == 0 {
		return namespace
	}
	return namespace + " (" + strings.ReplaceAll(metav1.FormatLabelSelector(s), ",", ", ") + ")"
}

func addresses(p *corev1.Pod) []netip.Addr {
	var out []netip.Addr
	for _, ip := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			out = append(out, a.Unmap().WithZone(""))
		}
	}
	if len(out) == 0 {
		if a, err := netip.ParseAddr(p.Status.PodIP); err == nil {
			out = append(out, a.Unmap().WithZone(""))
		}
	}
	return out
}
