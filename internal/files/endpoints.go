package files

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tulle-mesh/tulle/internal/topology"
)

// defaultService sets what the API server would.
func defaultService(s *corev1.Service) {
	s.Spec.Type = cmp.Or(s.Spec.Type, corev1.ServiceTypeClusterIP)
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		p.Protocol = cmp.Or(p.Protocol, corev1.ProtocolTCP)
		if p.TargetPort == (intstr.IntOrString{}) {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
}

// node is where pods run that name no node: a caller is one of a node.
const node = "standalone"

// defaultPod sets what the scheduler would. The loopback's first address is every process's own: it makes nobody the pod
// that is written to have it.
func defaultPod(p *corev1.Pod) {
	p.Spec.NodeName = cmp.Or(p.Spec.NodeName, node)
	everybodys := func(ip string) bool { return ip == "127.0.0.1" || ip == "::1" }
	if everybodys(p.Status.PodIP) {
		p.Status.PodIP = ""
	}
	p.Status.PodIPs = slices.DeleteFunc(p.Status.PodIPs, func(ip corev1.PodIP) bool { return everybodys(ip.IP) })
}

// slicesOfPods does what the EndpointSlice controller would, for services with a selector and no slices: one slice a
// pod, since named target ports may differ between pods.
func slicesOfPods(r topology.Resources) []*discoveryv1.EndpointSlice {
	type name struct{ namespace, name string }
	have := map[name]bool{}
	for _, s := range r.EndpointSlices {
		have[name{s.Namespace, s.Labels[discoveryv1.LabelServiceName]}] = true
	}
	var made []*discoveryv1.EndpointSlice
	for _, s := range r.Services {
		if len(s.Spec.Selector) == 0 || have[name{s.Namespace, s.Name}] {
			continue
		}
		selector := labels.SelectorFromSet(s.Spec.Selector)
		for _, p := range r.Pods {
			if p.Namespace == s.Namespace && p.Status.PodIP != "" && selector.Matches(labels.Set(p.Labels)) {
				made = append(made, sliceOfPod(s, p))
			}
		}
	}
	return made
}

func sliceOfPod(s *corev1.Service, p *corev1.Pod) *discoveryv1.EndpointSlice {
	ready := podReady(p)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Namespace, Name: s.Name + "-" + p.Name,
			Labels: map[string]string{discoveryv1.LabelServiceName: s.Name},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{
			Addresses:  []string{p.Status.PodIP},
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &ready},
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
		}},
	}
	if p.Spec.NodeName != "" {
		slice.Endpoints[0].NodeName = &p.Spec.NodeName
	}
	for i := range s.Spec.Ports {
		sp := &s.Spec.Ports[i]
		if port, ok := targetPort(sp, p); ok {
			slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &sp.Name, Protocol: &sp.Protocol, Port: &port, AppProtocol: sp.AppProtocol})
		}
	}
	return slice
}

func targetPort(sp *corev1.ServicePort, p *corev1.Pod) (int32, bool) {
	if sp.TargetPort.Type == intstr.Int {
		return sp.TargetPort.IntVal, true
	}
	for _, c := range p.Spec.Containers {
		for _, cp := range c.Ports {
			if cp.Name == sp.TargetPort.StrVal && cmp.Or(cp.Protocol, corev1.ProtocolTCP) == sp.Protocol {
				return cp.ContainerPort, true
			}
		}
	}
	return 0, false
}

// podReady takes a pod that says nothing for ready: nobody writes conditions by hand.
func podReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return p.DeletionTimestamp == nil
}
