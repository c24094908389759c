package topology

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/internal/problem"
)

// addService takes in a meshed Service, unless nothing of it can be meshed.
func (b *builder) addService(svc *corev1.Service) {
	s, podNames := b.service(svc)
	if s == nil {
		return
	}
	b.services[s.Name] = s
	for _, pod := range podNames {
		b.pods = append(b.pods, s.unit(pod))
	}
}

// service derives a Service with its endpoints, and the pods of it that want names of their own. It returns nil if the
// Service has nothing to serve: a headless one without ports, say.
func (b *builder) service(svc *corev1.Service) (*Service, []string) {
	if why := unusable(svc); why != "" {
		b.report(serviceRef(svc), problem.InvalidService, "%s; the Service is not meshed", why)
		return nil, nil
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		b.report(serviceRef(svc), problem.ExternalName, "a Service of type ExternalName is not meshed: it could name anything outside or inside the cluster")
		return nil, nil
	}
	set := b.settings(svc)
	s := &Service{
		Name:       Name{svc.Namespace, svc.Name},
		ClusterIPs: clusterIPs(svc),
		Dedicated:  set.dedicated,
		Shared:     set.shared,
		Prefer:     set.prefer,
		Breaker:    set.breaker,
		Rate:       Rate{set.average, set.burst},
		Ports:      b.ports(svc, set),
	}
	if len(s.Ports) == 0 {
		return nil, nil
	}
	podNames := b.addEndpoints(svc, s, set)
	if !set.headlessPods {
		return s, nil
	}
	slices.Sort(podNames)
	return s, slices.DeleteFunc(slices.Compact(podNames), func(name string) bool { return !isLabel(name) })
}

// unusable says what is wrong with the names of svc: they become names in DNS and keys.
func unusable(svc *corev1.Service) string {
	for _, name := range []string{svc.Namespace, svc.Name} {
		if !isLabel(name) {
			return problem.Quote(name) + " is not a DNS label"
		}
	}
	return ""
}

// isLabel is validation.IsDNS1123Label without its regular expression, which took a tenth of Build.
func isLabel(s string) bool {
	for i, c := range []byte(s) {
		alphanumeric := '0' <= c && c <= '9' || 'a' <= c && c <= 'z'
		if !alphanumeric && (c != '-' || i == 0 || i == len(s)-1) {
			return false
		}
	}
	return s != "" && len(s) <= 63
}

// ports derives the ports without their endpoints.
func (b *builder) ports(svc *corev1.Service, set settings) []Port {
	name := Name{svc.Namespace, svc.Name}
	ports := make([]Port, 0, len(svc.Spec.Ports))
	for _, sp := range svc.Spec.Ports {
		switch {
		case sp.Port < 1 || sp.Port > 65535:
			b.report(serviceRef(svc), problem.InvalidService, "%d is not a port number; the port is not meshed", sp.Port)
			continue
		case sp.Protocol != "" && sp.Protocol != corev1.ProtocolTCP && sp.Protocol != corev1.ProtocolUDP:
			b.report(serviceRef(svc), problem.UnsupportedProtocol, "port %d is neither TCP nor UDP but %s; the port is not meshed", sp.Port, problem.Quote(string(sp.Protocol)))
			continue
		}
		protocol, scheme := decide(set, sp, b.config.DefaultMode)
		p := Port{Number: sp.Port, Name: sp.Name, Protocol: protocol, Scheme: scheme}
		if protocol == HTTP {
			p.RetryAttempts, p.Timeout, p.EncodedSlash = set.retryAttempts, set.timeout, set.encodedSlash
		}
		p.Routes = []Route{p.own(name)}
		ports = append(ports, p)
	}
	slices.SortFunc(ports, func(p, q Port) int { return cmp.Or(p.compare(q), cmp.Compare(p.Name, q.Name)) })
	return slices.CompactFunc(ports, func(a, again Port) bool {
		if a.compare(again) != 0 {
			return false
		}
		b.report(serviceRef(svc), problem.InvalidService, "port %s is there twice; one of them is not meshed", portText(a))
		return true
	})
}

// own is the route to the endpoints of the service itself.
func (p Port) own(of Name) Route {
	return Route{Backends: []Backend{{Service: of, Port: p.Number, Weight: 1, Scheme: p.Scheme}}}
}

// compare orders ports by number, TCP before UDP.
func (p Port) compare(o Port) int {
	udp := func(p Port) int {
		if p.Protocol == UDP {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(p.Number, o.Number), cmp.Compare(udp(p), udp(o)))
}

// unit is the part of s that is one pod's. No split acts on it.
func (s Service) unit(pod string) Service {
	u := Service{
		Name: s.Name, Pod: pod, Dedicated: s.Dedicated, Shared: s.Shared, Breaker: s.Breaker, Rate: s.Rate, Ports: slices.Clone(s.Ports),
	}
	for i, p := range u.Ports {
		u.Ports[i].Endpoints = nil
		for _, e := range p.Endpoints {
			if e.Pod == pod {
				u.Ports[i].Endpoints = append(u.Ports[i].Endpoints, e)
			}
		}
	}
	return u
}
