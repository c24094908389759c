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
	"strconv"

	"github.com/traefik/traefik/v2/pkg/config/dynamic"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// Config is what the administrator says.
type Config struct {
	Zones []string // DNS zones of the mesh, e.g. "mesh"
	// ReadyOn is an entry point where Traefik answers on ReadyPath as soon as it has the configuration; "" = nowhere.
	ReadyOn string
}

// ReadyPath is what a readiness probe of Traefik asks for.
const ReadyPath = "/tulle-ready"

// Render returns the configuration of all units that have a port that they can be reached by: its own, or the shared
// one. What can't be rendered as it is meant is a Problem, and is closed or left out; never opened.
func Render(c Config, t topology.Topology, a shadow.Assigned) (*dynamic.Configuration, []problem.Problem) {
	r := &renderer{guards: newGuards(t), http: newHTTP(), tcp: newTCP(), udp: newUDP(), units: unitsOf(t), hosts: newHosts(c.Zones), matches: map[string]rendered{}, open: map[passage][]string{}}
	for i := range t.Services {
		s := &t.Services[i]
		if s.Backend {
			continue
		}
		u := r.units[shadow.Unit{Name: s.Name, Pod: s.Pod}]
		assigned := a.Units[shadow.Unit{Name: s.Name, Pod: s.Pod}]
		var hosts string
		if assigned.Shared {
			hosts = r.hosts.matcher(u, r.units)
		}
		for j := range s.Ports {
			r.port(u, &s.Ports[j], doorsOf(&s.Ports[j], assigned, a.Shared, hosts))
		}
	}
	if c.ReadyOn != "" {
		r.http.Routers["ready"] = &dynamic.Router{EntryPoints: []string{c.ReadyOn}, Rule: matcher("Path", ReadyPath), Service: "ping@internal"}
	}
	slices.SortFunc(r.problems, problem.Problem.Compare)
	return r.configuration(), slices.Compact(r.problems)
}

// renderer collects what Render returns.
type renderer struct {
	guards   guards
	units    map[shadow.Unit]*unit
	hosts    hosts
	matches  map[string]rendered
	open     map[passage][]string // middlewares of routers that let through
	http     *dynamic.HTTPConfiguration
	tcp      *dynamic.TCPConfiguration
	udp      *dynamic.UDPConfiguration
	problems []problem.Problem
}

// door is a way to a port: its own entry point, or the shared one, where the host says which service is meant.
type door struct {
	entryPoint string
	hosts      string // a matcher; empty = all
	suffix     string // of the routers' names
}

func doorsOf(p *topology.Port, a shadow.Assignment, shared []shadow.SharedPort, hosts string) []door {
	udp := p.Protocol == topology.UDP
	var doors []door
	if target := a.TargetPorts[shadow.PortKey{Number: p.Number, UDP: udp}]; target != 0 {
		doors = append(doors, door{entryPoint: EntryPoint(target, udp)})
	}
	if hosts != "" && p.Protocol == topology.HTTP {
		for _, l := range shared {
			if l.Port == p.Number {
				doors = append(doors, door{entryPoint: EntryPoint(l.TargetPort, false), hosts: hosts, suffix: "-shared"})
			}
		}
	}
	return doors
}

func (r *renderer) port(u *unit, p *topology.Port, doors []door) {
	if len(doors) == 0 {
		return
	}
	switch p.Protocol {
	case topology.HTTP:
		r.httpPort(u, p, doors)
	case topology.TCP:
		r.tcpPort(u, p, doors[0].entryPoint)
	case topology.UDP:
		r.udpPort(u, p, doors[0].entryPoint)
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

// unit is a service, or one pod of it, by its name in the configuration: "namespace.name", "namespace.name.pod". Names
// have dots between their parts, which are DNS labels or numbers, so that no two things share one.
type unit struct {
	*topology.Service
	name string
}

func unitsOf(t topology.Topology) map[shadow.Unit]*unit {
	out := make(map[shadow.Unit]*unit, len(t.Services))
	for i := range t.Services {
		s := &t.Services[i]
		u := &unit{Service: s, name: s.Name.Namespace + "." + s.Name.Name}
		if s.Pod != "" {
			u.name += "." + s.Pod
		}
		out[shadow.Unit{Name: s.Name, Pod: s.Pod}] = u
	}
	return out
}

func (u *unit) ref() problem.Ref {
	return problem.Ref{APIVersion: "v1", Kind: "Service", Namespace: u.Name.Namespace, Name: u.Name.Name}
}

// portName names a port of the unit: "namespace.name.80".
func (u *unit) portName(p *topology.Port) string { return u.name + "." + strconv.Itoa(int(p.Number)) }

// share is a backend that gets a part of what a route takes.
type share struct {
	unit   *unit // nil if there is no such service, which would be a bug of the topology
	port   *topology.Port
	weight int64
	scheme topology.Scheme
}

// shares are the backends of a route that get anything.
func (r *renderer) shares(u *unit, p *topology.Port, route topology.Route) []share {
	var out []share
	for _, b := range route.Backends {
		if b.Weight <= 0 {
			continue
		}
		unit := r.units[shadow.Unit{Name: b.Service}]
		if u.Pod != "" {
			unit = u
		}
		sh := share{unit: unit, weight: b.Weight, scheme: cmp.Or(b.Scheme, topology.SchemeHTTP)}
		if unit != nil {
			sh.port = portOf(unit, b.Port, p.Protocol == topology.UDP)
		}
		out = append(out, sh)
	}
	return out
}

func portOf(s *unit, number int32, udp bool) *topology.Port {
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
	draining := func(e topology.Endpoint) bool { return e.Draining }
	if !slices.ContainsFunc(s.port.Endpoints, draining) {
		return s.port.Endpoints
	}
	return slices.DeleteFunc(slices.Clone(s.port.Endpoints), draining)
}
