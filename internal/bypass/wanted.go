package bypass

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// Labels and annotations of the NetworkPolicies that the mesh writes.
const (
	ManagedByLabel     = "app.kubernetes.io/managed-by"
	ManagedBy          = "tulle-controller"
	MeshLabel          = "tulle.dev/mesh" // the mesh's namespace
	workloadAnnotation = "tulle.dev/workload"
	ownerAnnotation    = "tulle.dev/owner"
)

// Ours says whether a NetworkPolicy was written by the mesh of a namespace.
func Ours(p *networkingv1.NetworkPolicy, mesh string) bool {
	return p.Labels[ManagedByLabel] == ManagedBy && p.Labels[MeshLabel] == mesh
}

// wanted plans one NetworkPolicy for each owner of a workload's pods, and says where there can't be one: the others are closed
// all the same.
func (b *builder) wanted(w *Workload, served map[topology.Name][]Port, open reasons) {
	if w.Mode != Close {
		return
	}
	owners, without := b.separate(w.Name, served)
	admitted := b.admitted(w.Name)
	for _, o := range owners {
		p, why := b.ofOwner(w.Name, o, served, admitted)
		if why != "" {
			without.add("%s", why)
			continue
		}
		b.out.Wanted = append(b.out.Wanted, p)
	}
	for _, why := range without.list() {
		open.add("%s", why)
		b.report(b.refOf(w.Name), problem.NotSeparable, "calls past the mesh to some of its pods cannot be closed off: %s", why)
	}
}

// ofOwner is for the pods of one owner. Where policies of somebody else's isolate the pods already, their other ports are
// as those say; where none does, they are left open.
func (b *builder) ofOwner(w topology.Name, o *owner, served map[topology.Name][]Port, admitted []Peer) (*networkingv1.NetworkPolicy, string) {
	ports := map[Port]bool{}
	isolated, free := 0, 0
	for _, p := range o.pods {
		for _, port := range served[nameOf(p)] {
			ports[port] = true
		}
		if b.isolated(p) {
			isolated++
		} else {
			free++
		}
	}
	if isolated > 0 && free > 0 {
		return nil, fmt.Sprintf("other NetworkPolicies isolate %d of the %d pods of %s: one more can't leave the other ports of all as they are", isolated, isolated+free, o.text())
	}
	return b.write(w, o, slices.SortedFunc(maps.Keys(ports), comparePorts), admitted, isolated > 0), ""
}

func (b *builder) refOf(w topology.Name) problem.Ref {
	if s := b.accounts[w]; s != nil {
		return accountRef(s)
	}
	return problem.Ref{APIVersion: "v1", Kind: "ServiceAccount", Namespace: w.Namespace, Name: w.Name}
}

// separate finds the owners whose selectors match pods that serve, and no pod of another workload. Of pods that serve and that
// none of these match it says why.
func (b *builder) separate(w topology.Name, served map[topology.Name][]Port) (out []*owner, without reasons) {
	found := map[*owner]bool{}
	without = reasons{}
	for name := range served {
		covered, foreign := false, []string{}
		if owners := b.owners[w.Namespace]; owners != nil {
			for _, o := range owners.matching(b.byName[name].Labels) {
				if other := o.foreign(w); other != nil {
					foreign = append(foreign, fmt.Sprintf("the selector of %s also matches %s, which runs as %s", o.text(), other.Name, workloadOf(other).Name))
					continue
				}
				covered, found[o] = true, true
			}
		}
		switch {
		case covered:
		case len(foreign) > 0:
			without.add("labels are not separable: %s", slices.Min(foreign))
		default:
			without.add("labels are not separable: %s belongs to no Deployment, StatefulSet or DaemonSet", name.Name)
		}
	}
	return slices.SortedFunc(maps.Keys(found), func(a, b *owner) int { return cmp.Compare(a.text(), b.text()) }), without
}

// foreign returns the first pod that the selector matches and that is of another workload.
func (o *owner) foreign(w topology.Name) *corev1.Pod {
	var out *corev1.Pod
	for _, p := range o.pods {
		if workloadOf(p) != w && (out == nil || p.Name < out.Name) {
			out = p
		}
	}
	return out
}

func (o *owner) text() string { return strings.ToLower(o.Kind) + "/" + o.Name }

// write makes the NetworkPolicy of one owner's pods.
func (b *builder) write(w topology.Name, o *owner, ports []Port, admitted []Peer, isolated bool) *networkingv1.NetworkPolicy {
	from := []networkingv1.NetworkPolicyPeer{b.proxies()}
	for _, p := range admitted {
		from = append(from, p.peer())
	}
	rules := []networkingv1.NetworkPolicyIngressRule{{From: from, Ports: exactly(ports)}}
	if !isolated {
		rules = append(rules, networkingv1.NetworkPolicyIngressRule{Ports: complement(ports)})
	}
	return &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: w.Namespace, Name: policyName(w, o),
			Labels:      map[string]string{ManagedByLabel: ManagedBy, MeshLabel: b.Namespace},
			Annotations: map[string]string{workloadAnnotation: w.String(), ownerAnnotation: o.text()},
		},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: *o.Selector.DeepCopy(), PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}, Ingress: rules,
		},
	}
}

// proxies are those of the mesh: by a label of the namespace that only the API server sets, and by the pods' labels.
func (b *builder) proxies() networkingv1.NetworkPolicyPeer {
	return networkingv1.NetworkPolicyPeer{
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{namespaceName: b.Namespace}},
		PodSelector:       &metav1.LabelSelector{MatchLabels: proxyLabels()},
	}
}

func proxyLabels() map[string]string {
	return map[string]string{"app.kubernetes.io/name": "tulle", "app.kubernetes.io/component": "proxy"}
}

// policyName is readable where it can be, and unique.
func policyName(w topology.Name, o *owner) string {
	sum := sha256.Sum256([]byte(w.Name + "\x00" + o.Kind + "\x00" + o.Name))
	return "tulle-" + strings.Trim(o.Name[:min(len(o.Name), 200)], ".-") + "-" + hex.EncodeToString(sum[:4])
}

func exactly(ports []Port) []networkingv1.NetworkPolicyPort {
	var out []networkingv1.NetworkPolicyPort
	for _, p := range ports {
		out = append(out, portRange(p.protocol(), p.Number, p.Number))
	}
	return out
}

// complement is every other port of every protocol that has ports.
func complement(ports []Port) []networkingv1.NetworkPolicyPort {
	var out []networkingv1.NetworkPolicyPort
	for _, protocol := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP} {
		next := int32(1)
		for _, p := range ports {
			if p.protocol() != protocol {
				continue
			}
			if p.Number > next {
				out = append(out, portRange(protocol, next, p.Number-1))
			}
			next = p.Number + 1
		}
		if next <= 65535 {
			out = append(out, portRange(protocol, next, 65535))
		}
	}
	return out
}

func portRange(protocol corev1.Protocol, first, last int32) networkingv1.NetworkPolicyPort {
	port := intstr.FromInt32(first)
	out := networkingv1.NetworkPolicyPort{Protocol: &protocol, Port: &port}
	if last != first {
		out.EndPort = &last
	}
	return out
}

func (p Port) protocol() corev1.Protocol {
	if p.UDP {
		return corev1.ProtocolUDP
	}
	return corev1.ProtocolTCP
}

// keepEmpty keeps the NetworkPolicies of workloads that have no running pods at the moment: the next pod would be open
// until there is one again.
func (b *builder) keepEmpty() {
	wanted := map[topology.Name]bool{}
	for _, p := range b.out.Wanted {
		wanted[topology.Name{Namespace: p.Namespace, Name: p.Name}] = true
	}
	for _, p := range b.in.Policies {
		if !Ours(p, b.Namespace) || wanted[topology.Name{Namespace: p.Namespace, Name: p.Name}] || b.mode(p.Namespace) != Close {
			continue
		}
		namespace, name, _ := strings.Cut(p.Annotations[workloadAnnotation], "/")
		if namespace != p.Namespace || b.in.Enforced == nil || !b.in.Enforced(topology.Name{Namespace: namespace, Name: name}) {
			continue
		}
		for _, o := range b.all {
			if o.Namespace == p.Namespace && o.text() == p.Annotations[ownerAnnotation] && !slices.ContainsFunc(o.pods, started) {
				kept := p.DeepCopy()
				kept.Spec.PodSelector = *o.Selector.DeepCopy()
				b.out.Wanted = append(b.out.Wanted, kept)
			}
		}
	}
}

func started(p *corev1.Pod) bool { return p.Status.Phase != corev1.PodPending }
