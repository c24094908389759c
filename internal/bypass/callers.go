package bypass

import (
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/tulle-mesh/tulle/internal/topology"
)

// Known is where objects say who calls Services and pods past the mesh.
type Known struct {
	Pods      []*corev1.Pod
	Services  []*corev1.Service
	Ingresses []networkingv1.Ingress
	// Webhooks are Services that the API server calls, each with the object that says so.
	Webhooks map[topology.Name]string
}

// Callers says, by workload, who is known to call it past the mesh: whoever closes that way cuts them off, unless they are
// allowed. It can't be complete: the mesh does not see calls that avoid it.
func Callers(t topology.Topology, k Known) map[topology.Name][]string {
	out := map[topology.Name][]string{}
	add := func(w topology.Name, format string, args ...any) {
		if text := fmt.Sprintf(format, args...); !slices.Contains(out[w], text) {
			out[w] = append(out[w], text)
		}
	}
	pods := map[topology.Name]*corev1.Pod{}
	for _, p := range k.Pods {
		pods[nameOf(p)] = p
	}
	for _, e := range t.Exposed {
		if p := pods[e.Pod]; p != nil && !e.UDP && scraped(p.Annotations, e.Port) {
			add(e.Workload, "scrapers: annotations of its pods send Prometheus to TCP port %d", e.Port)
		}
	}
	behind := workloadsBehind(t)
	for _, s := range k.Services {
		name := topology.Name{Namespace: s.Namespace, Name: s.Name}
		for _, w := range behind[name] {
			if s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer {
				add(w, "callers from outside: the Service %s is of type %s", s.Name, s.Spec.Type)
			}
			if s.Annotations["prometheus.io/scrape"] == "true" {
				add(w, "scrapers: annotations of the Service %s send Prometheus to it", s.Name)
			}
			if by := k.Webhooks[name]; by != "" {
				add(w, "the API server: %s calls the Service %s", by, s.Name)
			}
		}
	}
	for i := range k.Ingresses {
		in := &k.Ingresses[i]
		for _, service := range backends(in) {
			for _, w := range behind[topology.Name{Namespace: in.Namespace, Name: service}] {
				add(w, "the ingress controller: the Ingress %s leads to the Service %s", in.Name, service)
			}
		}
	}
	for _, list := range out {
		slices.Sort(list)
	}
	return out
}

// scraped says whether annotations send Prometheus to a port.
func scraped(annotations map[string]string, port int32) bool {
	if annotations["prometheus.io/scrape"] != "true" {
		return false
	}
	text, limited := annotations["prometheus.io/port"]
	return !limited || text == strconv.Itoa(int(port))
}

// workloadsBehind are the workloads that a Service leads to.
func workloadsBehind(t topology.Topology) map[topology.Name][]topology.Name {
	out := map[topology.Name][]topology.Name{}
	for i := range t.Services {
		s := &t.Services[i]
		for _, p := range s.Ports {
			for _, e := range p.Endpoints {
				if !slices.Contains(out[s.Name], e.Workload) {
					out[s.Name] = append(out[s.Name], e.Workload)
				}
			}
		}
	}
	return out
}

// backends are the Services that an Ingress leads to.
func backends(in *networkingv1.Ingress) []string {
	var out []string
	add := func(b *networkingv1.IngressBackend) {
		if b != nil && b.Service != nil {
			out = append(out, b.Service.Name)
		}
	}
	add(in.Spec.DefaultBackend)
	for _, r := range in.Spec.Rules {
		if r.HTTP == nil {
			continue
		}
		for i := range r.HTTP.Paths {
			add(&r.HTTP.Paths[i].Backend)
		}
	}
	return out
}
