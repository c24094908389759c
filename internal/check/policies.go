package check

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// networkPolicies looks for pods that the proxies can't reach, or that can't reach the proxies, because NetworkPolicies
// don't let them. It judges who, not which ports: a policy that admits the proxies on any port counts as admitting them.
func (c *Checker) networkPolicies(ctx context.Context) ([]Finding, error) {
	kube := c.Cluster.Kube
	policies, err := kube.NetworkingV1().NetworkPolicies(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list NetworkPolicies: %w", err)
	}
	policies.Items = slices.DeleteFunc(policies.Items, func(p networkingv1.NetworkPolicy) bool { return p.Namespace == c.Namespace })
	if len(policies.Items) == 0 {
		return []Finding{{Level: OK, Message: "no NetworkPolicies outside of the mesh"}}, nil
	}
	pods, err := kube.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list Pods: %w", err)
	}
	ns, err := kube.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list Namespaces: %w", err)
	}
	j := newJudge(c.Namespace, policies.Items, pods.Items, ns.Items)
	return j.findings(pods.Items), nil
}

// judge knows the proxies as NetworkPolicies see them.
type judge struct {
	policies  map[string][]networkingv1.NetworkPolicy // by namespace
	namespace labels.Set                              // of the mesh
	proxy     labels.Set
	addresses []netip.Addr // of the proxies, if there are any yet
}

func newJudge(mesh string, policies []networkingv1.NetworkPolicy, pods []corev1.Pod, namespaces []corev1.Namespace) *judge {
	j := &judge{
		policies:  map[string][]networkingv1.NetworkPolicy{},
		namespace: labels.Set{"kubernetes.io/metadata.name": mesh},
		proxy:     labels.Set{"app.kubernetes.io/name": "tulle", "app.kubernetes.io/component": "proxy"},
	}
	for _, p := range policies {
		j.policies[p.Namespace] = append(j.policies[p.Namespace], p)
	}
	for _, n := range namespaces {
		if n.Name == mesh {
			j.namespace = n.Labels
		}
	}
	for _, p := range pods {
		if p.Namespace == mesh && j.proxy.AsSelector().Matches(labels.Set(p.Labels)) {
			for _, ip := range p.Status.PodIPs {
				if a, err := netip.ParseAddr(ip.IP); err == nil {
					j.addresses = append(j.addresses, a)
				}
			}
		}
	}
	return j
}

func (j *judge) findings(pods []corev1.Pod) []Finding {
	var unreached, cutOff []string
	for _, p := range pods {
		if p.Spec.HostNetwork || len(j.policies[p.Namespace]) == 0 || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		ingress, egress := j.admits(&p)
		if !ingress {
			unreached = append(unreached, p.Namespace+"/"+p.Name)
		}
		if !egress {
			cutOff = append(cutOff, p.Namespace+"/"+p.Name)
		}
	}
	var out []Finding
	if len(unreached) > 0 {
		out = append(out, Finding{
			Level: Failed, Message: fmt.Sprintf("NetworkPolicies keep the proxies from %d pods: %s", len(unreached), some(unreached)),
			Next: "admit pods with app.kubernetes.io/component: proxy of the mesh's namespace, or don't call these by mesh names",
		})
	}
	if len(cutOff) > 0 {
		out = append(out, Finding{
			Level: Note, Message: fmt.Sprintf("NetworkPolicies keep %d pods from the proxies: %s", len(cutOff), some(cutOff)),
			Next: "to let them use mesh names, allow egress to the mesh's namespace",
		})
	}
	if len(out) == 0 {
		out = append(out, Finding{Level: OK, Message: "NetworkPolicies let the proxies through"})
	}
	return out
}

// admits says whether a pod may be reached by the proxies, and reach them.
func (j *judge) admits(p *corev1.Pod) (ingress, egress bool) {
	isolatedIn, isolatedOut := false, false
	for _, policy := range j.policies[p.Namespace] {
		selector, err := metav1.LabelSelectorAsSelector(&policy.Spec.PodSelector)
		if err != nil || !selector.Matches(labels.Set(p.Labels)) {
			continue
		}
		if slices.Contains(policy.Spec.PolicyTypes, networkingv1.PolicyTypeIngress) {
			isolatedIn = true
			for _, r := range policy.Spec.Ingress {
				ingress = ingress || j.among(r.From, p.Namespace)
			}
		}
		if slices.Contains(policy.Spec.PolicyTypes, networkingv1.PolicyTypeEgress) {
			isolatedOut = true
			for _, r := range policy.Spec.Egress {
				egress = egress || j.among(r.To, p.Namespace)
			}
		}
	}
	return ingress || !isolatedIn, egress || !isolatedOut
}

// among is true if the proxies are among the peers of a policy in the namespace.
func (j *judge) among(peers []networkingv1.NetworkPolicyPeer, namespace string) bool {
	return len(peers) == 0 || slices.ContainsFunc(peers, func(peer networkingv1.NetworkPolicyPeer) bool {
		if peer.IPBlock != nil {
			return j.inBlock(peer.IPBlock)
		}
		if peer.NamespaceSelector == nil {
			return namespace == j.namespace["kubernetes.io/metadata.name"] && fits(peer.PodSelector, j.proxy)
		}
		return fits(peer.NamespaceSelector, j.namespace) && (peer.PodSelector == nil || fits(peer.PodSelector, j.proxy))
	})
}

// inBlock is true if all proxies' addresses of the block's family lie in it. Before there are any, nobody knows, and it
// counts as true.
func (j *judge) inBlock(b *networkingv1.IPBlock) bool {
	block, err := netip.ParsePrefix(b.CIDR)
	if err != nil {
		return false
	}
	family := slices.DeleteFunc(slices.Clone(j.addresses), func(a netip.Addr) bool { return a.Is4() != block.Addr().Is4() })
	if len(family) == 0 {
		return len(j.addresses) == 0
	}
	return !slices.ContainsFunc(family, func(a netip.Addr) bool {
		return !block.Contains(a) || slices.ContainsFunc(b.Except, func(except string) bool {
			p, err := netip.ParsePrefix(except)
			return err == nil && p.Contains(a)
		})
	})
}

func fits(s *metav1.LabelSelector, set labels.Set) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(set)
}
