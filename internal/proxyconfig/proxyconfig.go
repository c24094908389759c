// Package proxyconfig turns a topology into what proxies are sent: one resource for each thing that changes by itself.
// It is pure: equal arguments give equal resources, in the same order.
package proxyconfig

import (
	"slices"
	"strings"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// Config is what the administrator says of names.
type Config struct {
	Zones         []string // DNS zones of the mesh, e.g. "mesh"
	ClusterDomain string   // e.g. "cluster.local"
	DNSBypass     bool     // mesh names answer with the plain Services' addresses
	TrustDomain   string   // of SPIFFE IDs; default the cluster's domain
	// ReasonDetail is how much of why access was denied a client is told: "none", "code" or "full"; default code.
	ReasonDetail string
}

// Build returns what all proxies get, sorted by key: the Mesh, the Service and the Endpoints of every unit, and the Policy
// of every workload that is protected.
func Build(c Config, t topology.Topology, a shadow.Assigned) ([]configv1.Resource, error) {
	out := make([]configv1.Resource, 0, 2*len(t.Services)+len(t.Workloads)+1)
	mesh, err := configv1.NewResource("mesh", meshOf(c, a))
	if err != nil {
		return nil, err
	}
	out = append(out, mesh)
	for i := range t.Services {
		s := &t.Services[i]
		endpoints, err := configv1.NewResource(nameOf(s), endpointsOf(s))
		if err != nil {
			return nil, err
		}
		out = append(out, endpoints)
		if s.Backend {
			continue
		}
		service, err := configv1.NewResource(nameOf(s), serviceOf(s, a.Units[shadow.Unit{Name: s.Name, Pod: s.Pod}]))
		if err != nil {
			return nil, err
		}
		out = append(out, service)
	}
	for i := range t.Workloads {
		policy, err := configv1.NewResource(t.Workloads[i].Name.String(), Policy(&t.Workloads[i]))
		if err != nil {
			return nil, err
		}
		out = append(out, policy)
	}
	slices.SortFunc(out, func(a, b configv1.Resource) int { return a.Compare(b.Key) })
	return out, nil
}

// nameOf names the resources of a unit: "namespace/name", and "namespace/name/pod" for a single pod.
func nameOf(s *topology.Service) string {
	if s.Pod != "" {
		return s.Name.String() + "/" + s.Pod
	}
	return s.Name.String()
}

func meshOf(c Config, a shadow.Assigned) *configv1.Mesh {
	m := &configv1.Mesh{ClusterDomain: domain(c.ClusterDomain), DnsBypass: c.DNSBypass, TrustDomain: c.TrustDomain}
	switch c.ReasonDetail {
	case "none":
		m.ReasonDetail = configv1.ReasonDetail_REASON_DETAIL_NONE
	case "full":
		m.ReasonDetail = configv1.ReasonDetail_REASON_DETAIL_FULL
	}
	for _, z := range c.Zones {
		m.Zones = append(m.Zones, domain(z))
	}
	for _, p := range a.Shared {
		m.SharedListeners = append(m.SharedListeners, &configv1.SharedListener{Port: uint32(p.Port), TargetPort: uint32(p.TargetPort)})
	}
	slices.SortFunc(m.SharedListeners, func(a, b *configv1.SharedListener) int { return int(a.Port) - int(b.Port) })
	return m
}

func domain(name string) string { return strings.ToLower(strings.Trim(name, ".")) }

func endpointsOf(s *topology.Service) *configv1.Endpoints {
	m := &configv1.Endpoints{Namespace: s.Name.Namespace, Name: s.Name.Name, Prefer: preferOf(s.Prefer)}
	if s.Pod != "" {
		m.Name += "/" + s.Pod
	}
	for _, p := range s.Ports {
		ep := &configv1.EndpointPort{Port: uint32(p.Number), Udp: p.Protocol == topology.UDP}
		for _, e := range p.Endpoints {
			ep.Endpoints = append(ep.Endpoints, &configv1.Endpoint{
				Address: e.Address.String(), Port: uint32(e.Port), Draining: e.Draining, Node: e.Node, Zone: e.Zone, Pod: e.Pod,
				Workload: e.Workload.String(), Protected: e.Protected, HostNetwork: e.HostNetwork,
			})
		}
		m.Ports = append(m.Ports, ep)
	}
	return m
}
