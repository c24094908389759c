package proxyconfig

import (
	"net/netip"
	"slices"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// serviceOf describes a unit; a is the zero value while it has no address.
func serviceOf(s *topology.Service, a shadow.Assignment) *configv1.Service {
	m := &configv1.Service{
		Namespace:      s.Name.Namespace,
		Name:           s.Name.Name,
		Pod:            s.Pod,
		Addresses:      addresses(a.Addresses),
		PlainAddresses: addresses(s.ClusterIPs),
		Shared:         a.Shared,
		CircuitBreaker: s.Breaker,
	}
	if s.Rate.Average > 0 {
		m.RateLimit = &configv1.RateLimit{Average: s.Rate.Average, Burst: s.Rate.Burst}
	}
	if a.Bind.IsValid() {
		m.BindAddress = a.Bind.String()
	}
	for i := range s.Ports {
		m.Ports = append(m.Ports, portOf(s, &s.Ports[i], a))
	}
	return m
}

// addresses keeps the order of the list: the first one is the Service's primary family.
func addresses(list []netip.Addr) []string {
	var out []string
	for _, a := range list {
		out = append(out, a.String())
	}
	return out
}

func portOf(s *topology.Service, p *topology.Port, a shadow.Assignment) *configv1.Port {
	m := &configv1.Port{
		Port:          uint32(p.Number),
		Name:          p.Name,
		Protocol:      protocolOf(p.Protocol),
		TargetPort:    uint32(a.TargetPorts[shadow.PortKey{Number: p.Number, UDP: p.Protocol == topology.UDP}]),
		RetryAttempts: uint32(p.RetryAttempts),
		TimeoutMs:     uint64(p.Timeout.Milliseconds()),
		EncodedSlash:  p.EncodedSlash,
	}
	for _, r := range p.Routes {
		m.Routes = append(m.Routes, routeOf(s, p, r))
	}
	return m
}

func routeOf(s *topology.Service, p *topology.Port, r topology.Route) *configv1.Route {
	m := &configv1.Route{}
	if r.Split != nil {
		m.Split = r.Split.String()
	}
	for _, match := range r.Matches {
		m.Matches = append(m.Matches, matchOf(match))
	}
	for _, b := range r.Backends {
		backend := &configv1.Backend{Service: b.Service.String(), Port: uint32(b.Port), Weight: uint32(b.Weight)}
		if s.Pod != "" {
			backend.Service = nameOf(s)
		}
		if p.Protocol == topology.HTTP {
			backend.Scheme = schemeOf(b.Scheme)
		}
		m.Backends = append(m.Backends, backend)
	}
	return m
}

func protocolOf(p topology.Protocol) configv1.Protocol {
	switch p {
	case topology.HTTP:
		return configv1.Protocol_PROTOCOL_HTTP
	case topology.TCP:
		return configv1.Protocol_PROTOCOL_TCP
	case topology.UDP:
		return configv1.Protocol_PROTOCOL_UDP
	}
	return configv1.Protocol_PROTOCOL_UNSPECIFIED
}

func schemeOf(s topology.Scheme) configv1.Scheme {
	switch s {
	case topology.SchemeH2C:
		return configv1.Scheme_SCHEME_H2C
	case topology.SchemeHTTPS:
		return configv1.Scheme_SCHEME_HTTPS
	}
	return configv1.Scheme_SCHEME_HTTP
}

func preferOf(p topology.Prefer) configv1.Prefer {
	switch p {
	case topology.PreferZone:
		return configv1.Prefer_PREFER_ZONE
	case topology.PreferNode:
		return configv1.Prefer_PREFER_NODE
	}
	return configv1.Prefer_PREFER_NONE
}

// pods groups callers by node.
func pods(callers []topology.Caller, expires time.Time) map[string][]*configv1.Caller {
	ms := int64(0)
	if !expires.IsZero() {
		ms = expires.UnixMilli()
	}
	out := map[string][]*configv1.Caller{}
	for _, c := range callers {
		out[c.Node] = append(out[c.Node], &configv1.Caller{
			Addresses: addresses(c.Addresses), Namespace: c.Namespace, Pod: c.Pod, Uid: c.UID,
			ServiceAccount: c.ServiceAccount, Workload: c.Workload, ExpiresMs: ms,
		})
	}
	return out
}

// Own is what proxies are told of themselves and of their nodes' pods.
type Own struct {
	Proxies  []shadow.Proxy
	InSlices map[string]bool // the pods that an EndpointSlice of a mesh address still points at
	Expires  time.Time       // when the pods are no identities any more, unless that is renewed; zero = never
}

// Proxies returns what each proxy pod gets besides, by the pod's name.
func Proxies(t topology.Topology, o Own) (map[string][]configv1.Resource, error) {
	callers := pods(t.Callers, o.Expires)
	nodes := make(map[string]*topology.Node, len(t.Nodes))
	for i := range t.Nodes {
		nodes[t.Nodes[i].Name] = &t.Nodes[i]
	}
	out := make(map[string][]configv1.Resource, len(o.Proxies))
	for _, p := range o.Proxies {
		m := &configv1.Proxy{Node: p.Node, InSlices: o.InSlices[p.Pod], Callers: callers[p.Node]}
		if n := nodes[p.Node]; n != nil {
			m.NodeAddresses, m.Zone = addresses(n.Addresses), n.Zone
			for _, r := range n.PodRanges {
				m.PodRanges = append(m.PodRanges, r.String())
			}
		}
		r, err := configv1.NewResource(p.Pod, m)
		if err != nil {
			return nil, err
		}
		out[p.Pod] = slices.Concat(out[p.Pod], []configv1.Resource{r})
	}
	return out, nil
}
