package standalone

import (
	"net/netip"
	"strings"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// State is what the mesh serves and what it found wrong.
type State struct {
	DNS      string    // the mesh DNS's address, UDP and TCP
	Services []Service // by namespace and name
	Problems []problem.Problem
}

// Service is one meshed service.
type Service struct {
	Name    string // the mesh name without the zone: "web.shop"
	Address netip.Addr
	Ports   []Port
}

// Port is one port of a service and where it is served.
type Port struct {
	Number   int32
	Protocol topology.Protocol
	Served   int32 // the port number on Address; not Number where that can't be bound
}

func serving(t topology.Topology, a shadow.Assigned, refusals []configv1.Refusal) []Service {
	refused := map[string]bool{}
	for _, r := range refusals {
		if r.Type == configv1.ServiceType {
			refused[r.Name] = true
		}
	}
	var out []Service
	for _, s := range t.Services {
		assignment, ok := a.Units[shadow.Unit{Name: s.Name, Pod: s.Pod}]
		if !ok || refused[s.Name.String()] {
			continue
		}
		one := Service{Name: s.Name.Name + "." + s.Name.Namespace, Address: assignment.Bind}
		if s.Pod != "" {
			one.Name = s.Pod + "." + one.Name
		}
		for _, p := range s.Ports {
			key := shadow.PortKey{Number: p.Number, UDP: p.Protocol == topology.UDP}
			one.Ports = append(one.Ports, Port{Number: p.Number, Protocol: p.Protocol, Served: assignment.TargetPorts[key]})
		}
		out = append(out, one)
	}
	return out
}

// refOf names the object behind a resource of the config.
func refOf(k configv1.Key) problem.Ref {
	namespace, name, _ := strings.Cut(k.Name, "/")
	return problem.Ref{APIVersion: "v1", Kind: "Service", Namespace: namespace, Name: name}
}
