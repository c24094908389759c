package standalone

import (
	"net/netip"
	"slices"
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

// serving lists what is served of a topology. A port that could not be opened is left out, and so is a service that the
// data plane did not take at all.
func serving(t topology.Topology, a shadow.Assigned, refused map[configv1.Key][]configv1.Refusal) []Service {
	var out []Service
	for _, s := range t.Services {
		unit := shadow.Unit{Name: s.Name, Pod: s.Pod}
		assignment, ok := a.Units[unit]
		refusals := refused[configv1.Key{Type: configv1.ServiceType, Name: unit.String()}]
		if !ok || slices.ContainsFunc(refusals, func(r configv1.Refusal) bool { return r.BusyPort == 0 }) {
			continue
		}
		one := Service{Name: s.Name.Name + "." + s.Name.Namespace, Address: assignment.Bind}
		if s.Pod != "" {
			one.Name = s.Pod + "." + one.Name
		}
		for _, p := range s.Ports {
			key := shadow.PortKey{Number: p.Number, UDP: p.Protocol == topology.UDP}
			served := assignment.TargetPorts[key]
			if !slices.ContainsFunc(refusals, func(r configv1.Refusal) bool { return int32(r.BusyPort) == served && r.BusyUDP == key.UDP }) {
				one.Ports = append(one.Ports, Port{Number: p.Number, Protocol: p.Protocol, Served: served})
			}
		}
		out = append(out, one)
	}
	return out
}

// refOf names the object behind a resource of the config.
func refOf(k configv1.Key) problem.Ref {
	if k.Type != configv1.ServiceType && k.Type != configv1.EndpointsType {
		return problem.Ref{Kind: "Config", Name: k.Name}
	}
	namespace, name, _ := strings.Cut(k.Name, "/")
	name, _, _ = strings.Cut(name, "/") // a single pod's unit is its service's
	return problem.Ref{APIVersion: "v1", Kind: "Service", Namespace: namespace, Name: name}
}
