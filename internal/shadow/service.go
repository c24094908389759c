package shadow

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// ourAnnotations is the prefix of the annotations that are ours to set and to remove.
const ourAnnotations = "tulle.dev/"

// service plans one shadow Service with its slices.
func (p *planner) service(name, kind string, notes map[string]string, targets map[PortKey]int32) {
	if len(targets) == 0 {
		return
	}
	p.keep[name] = true
	old := p.held.services[name]
	if old == nil {
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: p.cfg.Namespace, Name: name}}
		p.fill(svc, kind, notes, targets)
		p.changes.CreateServices = append(p.changes.CreateServices, svc)
	} else if old.DeletionTimestamp == nil && !p.holds(old, kind, notes, targets) {
		svc := old.DeepCopy()
		p.fill(svc, kind, notes, targets)
		p.changes.UpdateServices = append(p.changes.UpdateServices, svc)
	}
	p.slices(name, targets)
}

func labels(kind string) map[string]string {
	return map[string]string{
		"app.kubernetes.io/name":       "tulle",
		"app.kubernetes.io/component":  "proxy",
		"app.kubernetes.io/managed-by": ManagedBy,
		KindLabel:                      kind,
	}
}

// fill sets the fields that are ours. Addresses are the cluster's to give: they stay as they are.
func (p *planner) fill(svc *corev1.Service, kind string, notes map[string]string, targets map[PortKey]int32) {
	if svc.Labels == nil {
		svc.Labels = map[string]string{}
	}
	maps.Copy(svc.Labels, labels(kind))
	maps.DeleteFunc(svc.Annotations, func(k, _ string) bool { return strings.HasPrefix(k, ourAnnotations) })
	if svc.Annotations == nil {
		svc.Annotations = map[string]string{}
	}
	maps.Copy(svc.Annotations, notes)
	spec := &svc.Spec
	spec.Type = corev1.ServiceTypeClusterIP
	spec.Selector = nil
	spec.ExternalIPs = nil
	spec.ExternalName = ""
	spec.SessionAffinity = corev1.ServiceAffinityNone
	spec.SessionAffinityConfig = nil
	if spec.IPFamilyPolicy == nil {
		policy := corev1.IPFamilyPolicyPreferDualStack
		spec.IPFamilyPolicy = &policy
	}
	spec.InternalTrafficPolicy, spec.TrafficDistribution = p.firstHop()
	spec.Ports = servicePorts(targets)
}

// firstHop keeps calls on the client's own node: with fail-over to other nodes, or strictly.
func (p *planner) firstHop() (*corev1.ServiceInternalTrafficPolicy, *string) {
	policy, distribution := corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceTrafficDistributionPreferSameNode
	if p.cfg.Local {
		policy = corev1.ServiceInternalTrafficPolicyLocal
		return &policy, nil
	}
	return &policy, &distribution
}

func servicePorts(targets map[PortKey]int32) []corev1.ServicePort {
	out := make([]corev1.ServicePort, 0, len(targets))
	for _, k := range sortedKeys(targets) {
		out = append(out, corev1.ServicePort{Name: k.name(), Protocol: k.protocol(), Port: k.Number, TargetPort: intstr.FromInt32(targets[k])})
	}
	return out
}

func (k PortKey) protocol() corev1.Protocol {
	if k.UDP {
		return corev1.ProtocolUDP
	}
	return corev1.ProtocolTCP
}

// holds says whether the fields that are ours are as they should be. Everything else is the cluster's or its users'.
func (p *planner) holds(svc *corev1.Service, kind string, notes map[string]string, targets map[PortKey]int32) bool {
	for k, v := range labels(kind) {
		if svc.Labels[k] != v {
			return false
		}
	}
	ours := 0
	for k, v := range svc.Annotations {
		if strings.HasPrefix(k, ourAnnotations) {
			ours++
			if want, ok := notes[k]; !ok || want != v {
				return false
			}
		}
	}
	spec := svc.Spec
	policy, distribution := p.firstHop()
	return ours == len(notes) &&
		spec.Type == corev1.ServiceTypeClusterIP && len(spec.Selector) == 0 && len(spec.ExternalIPs) == 0 && spec.ExternalName == "" &&
		spec.SessionAffinity == corev1.ServiceAffinityNone && spec.IPFamilyPolicy != nil &&
		same(spec.InternalTrafficPolicy, policy) && same(spec.TrafficDistribution, distribution) &&
		slices.EqualFunc(spec.Ports, servicePorts(targets), func(a, b corev1.ServicePort) bool {
			return a.Name == b.Name && a.Protocol == b.Protocol && a.Port == b.Port && a.TargetPort == b.TargetPort
		})
}

func same[T comparable](a, b *T) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}
