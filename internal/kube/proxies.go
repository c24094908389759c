package kube

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/internal/shadow"
)

// component is the label by which the mesh's own pods are told apart.
const component = "app.kubernetes.io/component"

func isOurs(p *corev1.Pod, what string) bool {
	return p.Labels["app.kubernetes.io/name"] == "tulle" && p.Labels[component] == what
}

// podEnded says whether a pod has stopped for good.
func podEnded(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// proxies are the proxy pods that exist, by name.
func (s *Source) proxies() []shadow.Proxy {
	var out []shadow.Proxy
	for _, p := range s.pods.mesh.all() {
		if !isOurs(p, "proxy") || podEnded(p) {
			continue
		}
		out = append(out, shadow.Proxy{
			Pod: p.Name, UID: string(p.UID), Node: p.Spec.NodeName, Zone: s.zone(p.Spec.NodeName),
			Addresses: podAddresses(p), Ready: p.DeletionTimestamp == nil && isReady(p),
			Tunnels: servesTunnels(p),
		})
	}
	return out
}

// servesTunnels says that a proxy has the port by which it says so. One with an engine of others has none.
func servesTunnels(p *corev1.Pod) bool {
	for _, c := range p.Spec.Containers {
		for _, port := range c.Ports {
			if port.Name == "tunnel" {
				return true
			}
		}
	}
	return false
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func (s *Source) zone(node string) string {
	if n, ok := s.nodes.get("", node); ok {
		return n.Labels[corev1.LabelTopologyZone]
	}
	return ""
}

func podAddresses(p *corev1.Pod) []netip.Addr {
	texts := make([]string, 0, 2)
	for _, ip := range p.Status.PodIPs {
		texts = append(texts, ip.IP)
	}
	if len(texts) == 0 {
		texts = append(texts, p.Status.PodIP)
	}
	var out []netip.Addr
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil {
			out = append(out, a.Unmap().WithZone(""))
		}
	}
	return out
}
