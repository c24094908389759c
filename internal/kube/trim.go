package kube

import (
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/bypass"
	"github.com/tulle-mesh/tulle/internal/shadow"
)

// The functions below keep of each object what the topology and the plans read: of 20,000 pods the rest would be most
// of the controller's memory, and a change of it would be a round for nothing.

// metaOf keeps what names an object.
func metaOf(o metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: o.Namespace, Name: o.Name, UID: o.UID, CreationTimestamp: o.CreationTimestamp, DeletionTimestamp: o.DeletionTimestamp}
}

// only keeps the values of the keys that begin with one of the prefixes.
func only(m map[string]string, prefixes ...string) map[string]string {
	var out map[string]string
	for k, v := range m {
		for _, p := range prefixes {
			if strings.HasPrefix(k, p) {
				if out == nil {
					out = map[string]string{}
				}
				// A small value may be part of a large text, which it would keep in memory.
				out[strings.Clone(k)] = strings.Clone(v)
			}
		}
	}
	return out
}

func keepService(obj any) (*corev1.Service, bool) {
	s, ok := obj.(*corev1.Service)
	if !ok {
		return nil, false
	}
	out := &corev1.Service{ObjectMeta: metaOf(s.ObjectMeta)}
	out.Annotations = only(s.Annotations, "tulle.dev/", "mesh.traefik.io/", "prometheus.io/")
	out.Spec.TrafficDistribution = s.Spec.TrafficDistribution
	out.Spec.Type, out.Spec.ClusterIP, out.Spec.ClusterIPs, out.Spec.Ports = s.Spec.Type, s.Spec.ClusterIP, s.Spec.ClusterIPs, s.Spec.Ports
	return out, true
}

// keepMeshService keeps Services of the mesh's own namespace as a whole: updates of shadow Services are made of them.
func keepMeshService(obj any) (*corev1.Service, bool) {
	s, ok := obj.(*corev1.Service)
	if !ok {
		return nil, false
	}
	out := *s
	out.ManagedFields = nil
	return &out, true
}

func keepSlice(obj any) (*discoveryv1.EndpointSlice, bool) {
	s, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok {
		return nil, false
	}
	out := &discoveryv1.EndpointSlice{ObjectMeta: metaOf(s.ObjectMeta), AddressType: s.AddressType, Ports: s.Ports, Endpoints: s.Endpoints}
	out.Labels = only(s.Labels, discoveryv1.LabelServiceName, discoveryv1.LabelManagedBy)
	for i := range out.Endpoints {
		e := &out.Endpoints[i]
		e.Hints, e.DeprecatedTopology, e.Hostname = nil, nil, nil
		if r := e.TargetRef; r != nil {
			e.TargetRef = &corev1.ObjectReference{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}
		}
	}
	return out, true
}

// keepMeshSlice returns a function that keeps slices of the mesh's own namespace, and equal lists of endpoints once: all
// mesh addresses lead to the same proxies, and there are services times nodes of them. It is called by one reflector.
func keepMeshSlice() func(any) (*discoveryv1.EndpointSlice, bool) {
	var recent [64][]discoveryv1.Endpoint
	at := 0
	return func(obj any) (*discoveryv1.EndpointSlice, bool) {
		s, ok := obj.(*discoveryv1.EndpointSlice)
		if !ok {
			return nil, false
		}
		out := *s
		out.ManagedFields = nil
		for _, list := range recent {
			if len(list) > 0 && shadow.EqualEndpoints(list, out.Endpoints) {
				out.Endpoints = list
				return &out, true
			}
		}
		recent[at%len(recent)] = out.Endpoints
		at++
		return &out, true
	}
}

func keepPod(obj any) (*corev1.Pod, bool) {
	p, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, false
	}
	out := &corev1.Pod{ObjectMeta: metaOf(p.ObjectMeta)}
	out.Annotations = only(p.Annotations, "prometheus.io/")
	// NetworkPolicies select by all of them.
	out.Labels = p.Labels
	if owner := metav1.GetControllerOfNoCopy(p); owner != nil {
		out.OwnerReferences = []metav1.OwnerReference{{Kind: owner.Kind, Name: owner.Name, Controller: owner.Controller}}
	}
	out.Spec.NodeName, out.Spec.HostNetwork, out.Spec.ServiceAccountName = p.Spec.NodeName, p.Spec.HostNetwork, p.Spec.ServiceAccountName
	out.Spec.InitContainers, out.Spec.Containers = keepContainers(p.Spec.InitContainers), keepContainers(p.Spec.Containers)
	out.Status.Phase, out.Status.PodIP, out.Status.PodIPs = p.Status.Phase, p.Status.PodIP, p.Status.PodIPs
	return out, true
}

// keepContainers keeps what NetworkPolicies call ports, and what says whether addresses can be forged.
func keepContainers(in []corev1.Container) []corev1.Container {
	if len(in) == 0 {
		return nil
	}
	out := make([]corev1.Container, len(in))
	for i := range in {
		for _, p := range in[i].Ports {
			if p.Name != "" {
				out[i].Ports = append(out[i].Ports, corev1.ContainerPort{Name: p.Name, ContainerPort: p.ContainerPort, Protocol: p.Protocol})
			}
		}
		if s := in[i].SecurityContext; s != nil && (s.Capabilities != nil || s.Privileged != nil) {
			out[i].SecurityContext = &corev1.SecurityContext{Capabilities: s.Capabilities, Privileged: s.Privileged}
		}
	}
	return out
}

// keepMeshPod keeps of the mesh's own pods also what says whether they take traffic.
func keepMeshPod(obj any) (*corev1.Pod, bool) {
	out, ok := keepPod(obj)
	if !ok {
		return nil, false
	}
	p, _ := obj.(*corev1.Pod)
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			out.Status.Conditions = []corev1.PodCondition{{Type: c.Type, Status: c.Status}}
		}
	}
	return out, true
}

func keepNode(obj any) (*corev1.Node, bool) {
	n, ok := obj.(*corev1.Node)
	if !ok {
		return nil, false
	}
	out := &corev1.Node{ObjectMeta: metaOf(n.ObjectMeta)}
	out.Labels = only(n.Labels, corev1.LabelTopologyZone)
	out.Spec.PodCIDR, out.Spec.PodCIDRs = n.Spec.PodCIDR, n.Spec.PodCIDRs
	out.Status.Addresses = n.Status.Addresses
	return out, true
}

func keepNamespace(obj any) (*corev1.Namespace, bool) {
	n, ok := obj.(*corev1.Namespace)
	if !ok {
		return nil, false
	}
	out := &corev1.Namespace{ObjectMeta: metaOf(n.ObjectMeta)}
	out.Labels, out.Annotations = only(n.Labels, "tulle.dev/"), only(n.Annotations, "tulle.dev/")
	return out, true
}

func keepServiceAccount(obj any) (*corev1.ServiceAccount, bool) {
	s, ok := obj.(*corev1.ServiceAccount)
	if !ok {
		return nil, false
	}
	out := &corev1.ServiceAccount{ObjectMeta: metaOf(s.ObjectMeta)}
	out.Labels, out.Annotations = only(s.Labels, "tulle.dev/"), only(s.Annotations, "tulle.dev/")
	return out, true
}

// keepPolicy keeps a NetworkPolicy as a whole: updates of those that the mesh wrote are made of it.
func keepPolicy(obj any) (*networkingv1.NetworkPolicy, bool) {
	p, ok := obj.(*networkingv1.NetworkPolicy)
	if !ok {
		return nil, false
	}
	out := *p
	out.ManagedFields = nil
	return &out, true
}

func samePolicy(a, b *networkingv1.NetworkPolicy) bool {
	return equal(a.Labels, b.Labels) && equal(a.Annotations, b.Annotations) && equal(a.Spec, b.Spec) && a.DeletionTimestamp.Equal(b.DeletionTimestamp)
}

// ownerOf is a bypass.Owner as a list keeps it.
type ownerOf struct{ *bypass.Owner }

func (o ownerOf) GetNamespace() string { return o.Namespace }
func (o ownerOf) GetName() string      { return o.Name }

func keepOwner(obj any) (ownerOf, bool) {
	switch o := obj.(type) {
	case *appsv1.Deployment:
		return ownerOf{&bypass.Owner{Kind: "Deployment", Namespace: o.Namespace, Name: o.Name, Selector: o.Spec.Selector}}, true
	case *appsv1.StatefulSet:
		return ownerOf{&bypass.Owner{Kind: "StatefulSet", Namespace: o.Namespace, Name: o.Name, Selector: o.Spec.Selector}}, true
	case *appsv1.DaemonSet:
		return ownerOf{&bypass.Owner{Kind: "DaemonSet", Namespace: o.Namespace, Name: o.Name, Selector: o.Spec.Selector}}, true
	}
	return ownerOf{}, false
}

func keepServiceCIDR(obj any) (*networkingv1.ServiceCIDR, bool) {
	c, ok := obj.(*networkingv1.ServiceCIDR)
	if !ok {
		return nil, false
	}
	return &networkingv1.ServiceCIDR{ObjectMeta: metaOf(c.ObjectMeta), Spec: c.Spec}, true
}

// equal compares what is kept. None of it has a resource version, but for the mesh's own Services and slices.
func equal[T any](a, b T) bool { return equality.Semantic.DeepEqual(a, b) }
