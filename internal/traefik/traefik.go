// Package traefik renders a topology as dynamic configuration of Traefik v2, for those who want stock Traefik to carry
// the mesh's traffic: entry points, routers, services and middlewares instead of listeners, routes, endpoints and
// settings. It is pure: equal arguments give equal bytes, so that Traefik reloads only if there is a change.
//
// Whatever it renders, Traefik's decoder takes: it refuses a whole configuration for one empty element and does not ask
// for it again until it changes. docs/design/engines.md says what Traefik does otherwise than the mesh's own proxy.
package traefik

import (
	"cmp"
	"slices"
	"strings"

	"github.com/traefik/traefik/v2/pkg/config/dynamic"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// Config is what the administrator says.
type Config struct {
	Zones []string // DNS zones of the mesh, e.g. "mesh"
	// Protected are the services that are not everybody's to call, and who may call them. What Traefik can't enforce of
	// that is closed.
	Protected map[topology.Name]Policy
}

// Render returns the configuration of all units that have a port that they can be reached by: its own, or the shared
// one. What can't be rendered as it is meant is a Problem, and is closed or left out; never opened.
func Render(c Config, t topology.Topology, a shadow.Assigned) (*dynamic.Configuration, []problem.Problem) {
	r := &renderer{config: c, http: newHTTP(), tcp: newTCP(), udp: newUDP(), units: map[string]*topology.Service{}}
	for i := range t.Services {
		r.units[unitName(&t.Services[i])] = &t.Services[i]
	}
	r.hosts = hostsOf(c.Zones, t, a)
	for i := range t.Services {
		s := &t.Services[i]
		if s.Backend {
			continue
		}
		assigned := a.Units[shadow.Unit{Name: s.Name, Pod: s.Pod}]
		for j := range s.Ports {
			r.port(s, &s.Ports[j], assigned, a.Shared)
		}
	}
	slices.SortFunc(r.problems, problem.Problem.Compare)
	return r.configuration(), slices.Compact(r.problems)
}

// renderer collects what Render returns.
type renderer struct {
	config   Config
	units    map[string]*topology.Service // by unitName
	hosts    map[hostKey][]string
	http     *dynamic.HTTPConfiguration
	tcp      *dynamic.TCPConfiguration
	udp      *dynamic.UDPConfiguration
	problems []problem.Problem
}

// door is a way to a port: its own entry point, or the shared one, where the host says which service is meant.
type door struct {
	entryPoint string
	hosts      []string
	suffix     string // of the routers' names
}

func (r *renderer) port(s *topology.Service, p *topology.Port, a shadow.Assignment, shared []shadow.SharedPort) {
	udp := p.Protocol == topology.UDP
	var doors []door
	if target := a.TargetPorts[shadow.PortKey{Number: p.Number, UDP: udp}]; target != 0 {
		doors = append(doors, door{entryPoint: EntryPoint(target, udp)})
	}
	if hosts := r.hosts[hostKey{unitName(s), p.Number}]; a.Shared && p.Protocol == topology.HTTP && len(hosts) > 0 {
		for _, l := range shared {
			if l.Port == p.Number {
				doors = append(doors, door{entryPoint: EntryPoint(l.TargetPort, false), hosts: hosts, suffix: "-shared"})
			}
		}
	}
	if len(doors) == 0 {
		return
	}
	switch p.Protocol {
	case topology.HTTP:
		r.httpPort(s, p, doors)
	case topology.TCP:
		r.tcpPort(s, p, doors[0].entryPoint)
	case topology.UDP:
		r.udpPort(s, p, doors[0].entryPoint)
	}
}

// configuration leaves out what is empty.
func (r *renderer) configuration() *dynamic.Configuration {
	c := &dynamic.Configuration{}
	if len(r.http.Routers) > 0 {
		c.HTTP = r.http
	}
	if len(r.tcp.Routers) > 0 {
		c.TCP = r.tcp
	}
	if len(r.udp.Routers) > 0 {
		c.UDP = r.udp
	}
	return c
}

func (r *renderer) report(ref problem.Ref, reason problem.Reason, format string, args ...any) {
	r.problems = append(r.problems, problem.Newf(ref, reason, format, args...))
}

func serviceRef(s *topology.Service) problem.Ref {
	return problem.Ref{APIVersion: "v1", Kind: "Service", Namespace: s.Name.Namespace, Name: s.Name.Name}
}

// Names have dots between their parts, which are DNS labels or numbers: no two things share one.

// unitName is "namespace.name", and "namespace.name.pod" for a single pod.
func unitName(s *topology.Service) string {
	if s.Pod != "" {
		return s.Name.Namespace + "." + s.Name.Name + "." + s.Pod
	}
	return s.Name.Namespace + "." + s.Name.Name
}

// share is a backend that gets a part of what a route takes.
type share struct {
	unit   *topology.Service // nil if there is no such service, which would be a bug of the topology
	port   *topology.Port
	weight int64
	scheme topology.Scheme
}

// shares are the backends of a route that get anything.
func (r *renderer) shares(s *topology.Service, p *topology.Port, route topology.Route) []share {
	var out []share
	for _, b := range route.Backends {
		if b.Weight <= 0 {
			continue
		}
		unit := r.units[b.Service.Namespace+"."+b.Service.Name]
		if s.Pod != "" {
			unit = s
		}
		sh := share{unit: unit, weight: b.Weight, scheme: cmp.Or(b.Scheme, topology.SchemeHTTP)}
		if unit != nil {
			sh.port = portOf(unit, b.Port, p.Protocol == topology.UDP)
		}
		out = append(out, sh)
	}
	return out
}

func portOf(s *topology.Service, number int32, udp bool) *topology.Port {
	for i := range s.Ports {
		if s.Ports[i].Number == number && (s.Ports[i].Protocol == topology.UDP) == udp {
			return &s.Ports[i]
		}
	}
	return nil
}

// endpoints are those that take new calls.
func (s share) endpoints() []topology.Endpoint {
	if s.port == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(s.port.Endpoints), func(e topology.Endpoint) bool { return e.Draining })
}

func zonesOf(zones []string) []string {
	var out []string
	for _, z := range zones {
		if z = strings.ToLower(strings.Trim(z, ".")); z != "" {
			out = append(out, z)
		}
	}
	return out
}
