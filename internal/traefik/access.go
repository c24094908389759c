package traefik

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/smi"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// Traefik knows callers by their addresses only, and only at the first hop: there is no identity between nodes and
// nothing on the server's side. So HTTP is let in by the addresses of the pods that a source has now, and TCP and UDP are
// closed. What is not known to be allowed is closed.

// access is what may come to a route.
type access struct {
	protected bool
	allow     []allow // none: closed
}

// allow lets sources in on some ports with some methods.
type allow struct {
	sources []netip.Addr
	ports   []int32  // of the service; none = all
	methods []string // none = all
}

// guards knows the policies of workloads.
type guards struct {
	workloads map[topology.Name]*topology.Workload
	addresses map[smi.Identity][]netip.Addr // of callers
	policies  map[topology.Name]policy      // those that were asked for
}

// policy is a workload's, as far as Traefik can have it.
type policy struct {
	allow []allow
	lost  []string // TrafficTargets that allow more, which is closed
}

func newGuards(t topology.Topology) guards {
	g := guards{workloads: map[topology.Name]*topology.Workload{}, addresses: map[smi.Identity][]netip.Addr{}, policies: map[topology.Name]policy{}}
	for i := range t.Workloads {
		g.workloads[t.Workloads[i].Name] = &t.Workloads[i]
	}
	if len(g.workloads) == 0 {
		return g
	}
	for _, c := range t.Callers {
		id := smi.Identity{Namespace: c.Namespace, Name: c.ServiceAccount}
		g.addresses[id] = append(g.addresses[id], c.Addresses...)
	}
	return g
}

// enforced says whether calls to an endpoint are refused unless they are allowed. One whose policy isn't known is.
func (g guards) enforced(e topology.Endpoint) bool {
	if !e.Protected {
		return false
	}
	w := g.workloads[e.Workload]
	return w == nil || w.Mode != topology.AccessAudit
}

// of returns a workload's policy. One that isn't known lets nobody in.
func (g guards) of(name topology.Name) policy {
	p, ok := g.policies[name]
	if !ok {
		if w := g.workloads[name]; w != nil {
			p = g.convert(w)
		}
		g.policies[name] = p
	}
	return p
}

// alike says whether workloads let the same in.
func (g guards) alike(workloads []topology.Name) bool {
	first := g.of(workloads[0]).allow
	return !slices.ContainsFunc(workloads, func(w topology.Name) bool { return !slices.EqualFunc(first, g.of(w).allow, allow.equal) })
}

func (a allow) equal(b allow) bool {
	return slices.Equal(a.sources, b.sources) && slices.Equal(a.ports, b.ports) && slices.Equal(a.methods, b.methods)
}

// convert takes over what Traefik can judge as the mesh does: who calls, on which port, by which method. It judges paths
// and headers, too, but takes them otherwise than a rule means that keeps somebody out: of a repeated header one value
// that fits is enough, and it knows fewer ways to write one path.
func (g guards) convert(w *topology.Workload) policy {
	var p policy
	for _, grant := range w.Grants {
		ports, open := portsOf(grant)
		if !open {
			continue
		}
		methods, lost := methodsOf(grant)
		if lost {
			p.lost = append(p.lost, grant.Target.String())
		}
		sources := g.sourcesOf(grant)
		if len(sources) == 0 {
			continue
		}
		for _, list := range methods {
			p.allow = append(p.allow, allow{sources: sources, ports: ports, methods: list})
		}
	}
	return p
}

// sourcesOf are the addresses that a grant's sources have now.
func (g guards) sourcesOf(grant topology.Grant) []netip.Addr {
	var list []netip.Addr
	for _, s := range grant.Sources {
		list = append(list, g.addresses[s]...)
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}

// portsOf are the ports on which a grant allows HTTP: those of its TCPRoutes, or all if it has rules about HTTP only.
func portsOf(g topology.Grant) (ports []int32, open bool) {
	tcp, all := false, false
	for _, r := range g.Rules {
		if r.Kind != "TCPRoute" {
			continue
		}
		tcp = true
		if !r.Broken {
			all = all || len(r.Ports) == 0
			ports = append(ports, r.Ports...)
		}
	}
	http := slices.ContainsFunc(g.Rules, func(r topology.Rule) bool { return r.Kind == "HTTPRouteGroup" })
	switch {
	case !tcp && !http:
		return nil, false
	case all || !tcp:
		ports = nil
	case len(ports) == 0:
		return nil, false
	}
	if g.Port == 0 {
		return ports, true
	}
	return []int32{g.Port}, ports == nil || slices.Contains(ports, g.Port)
}

// methodsOf lists the methods of each match that a grant allows; nil = all. lost says that there are matches that are
// about more than methods.
func methodsOf(g topology.Grant) (methods [][]string, lost bool) {
	http := false
	for _, r := range g.Rules {
		if r.Kind != "HTTPRouteGroup" {
			continue
		}
		http = true
		if r.Broken || r.Group == nil {
			continue
		}
		for i, m := range r.Group.Matches {
			switch {
			case len(r.Matches) > 0 && !slices.Contains(r.Matches, i):
			case len(m.Headers) > 0 || !anyPath(m.PathRegex):
				lost = true
			default:
				methods = append(methods, m.Methods)
			}
		}
	}
	if !http {
		return [][]string{nil}, false
	}
	return methods, lost
}

func anyPath(expr string) bool {
	_, any, _, err := pathTemplate(expr)
	return expr == "" || err == nil && any
}

// access judges the backends of a route. Each has its own policy, and Traefik lets a request in before it draws a backend
// and an endpoint: what has not the same answer for all of them is closed.
func (r *renderer) access(u *unit, shares []share) access {
	workloads, open := r.behind(shares)
	switch {
	case len(workloads) == 0:
		return access{}
	case open || !r.guards.alike(workloads):
		r.report(u.ref(), problem.NotEnforceable, "Traefik lets a request in before it chooses an endpoint, and these are not all protected alike: what leads to them is closed")
		return access{protected: true}
	}
	var lost []string
	for _, w := range workloads {
		lost = append(lost, r.guards.of(w).lost...)
	}
	if len(lost) > 0 {
		r.report(u.ref(), problem.NotEnforceable, "Traefik cannot enforce rules about paths and headers: what these TrafficTargets allow by them is closed: %s", problem.QuoteAll(lost))
	}
	return access{protected: true, allow: r.guards.of(workloads[0]).allow}
}

// behind lists the workloads behind shares for which access is enforced; open says that there are others, too.
func (r *renderer) behind(shares []share) (workloads []topology.Name, open bool) {
	for _, s := range shares {
		for _, e := range s.endpoints() {
			switch {
			case !r.guards.enforced(e):
				open = true
			case !slices.Contains(workloads, e.Workload):
				workloads = append(workloads, e.Workload)
			}
		}
	}
	return workloads, open
}

// allowed lists the matchers by which requests are let in.
func (t httpTarget) allowed() [][]string {
	var out [][]string
	for _, a := range t.access.allow {
		if len(a.ports) > 0 && !slices.Contains(a.ports, t.port.Number) {
			continue
		}
		var matchers []string
		if len(a.methods) > 0 {
			matchers = append(matchers, matcher("Method", slices.Clone(a.methods)...))
		}
		out = append(out, append(matchers, sources(a.sources)))
	}
	return out
}

// closedStream says whether a TCP or UDP port is closed because an endpoint of it is protected. It is told if anybody would
// be let in otherwise.
func (r *renderer) closedStream(u *unit, p *topology.Port, shares []share) bool {
	workloads, open := r.behind(shares)
	var lost []string
	for _, w := range workloads {
		lost = append(lost, r.guards.streams(w, p)...)
	}
	protocol := strings.ToUpper(string(p.Protocol))
	switch {
	case len(lost) > 0:
		r.report(u.ref(), problem.NotEnforceable, "Traefik knows no identity of callers of %s: port %d is closed, whatever these TrafficTargets allow: %s", protocol, p.Number, problem.QuoteAll(lost))
	case len(workloads) > 0 && open:
		r.report(u.ref(), problem.NotEnforceable, "Traefik knows no identity of callers of %s: port %d is closed, as some of what is behind it is protected", protocol, p.Number)
	}
	return len(workloads) > 0
}

// streams lists the TrafficTargets that let anybody in on a TCP or UDP port of a workload.
func (g guards) streams(name topology.Name, p *topology.Port) []string {
	var targets []string
	if w := g.workloads[name]; w != nil {
		for _, grant := range w.Grants {
			if allowsStream(grant, p) {
				targets = append(targets, grant.Target.String())
			}
		}
	}
	return targets
}

// allowsStream says whether a grant is about connections or datagrams on a port. TCPRoutes beside an HTTPRouteGroup are
// about its ports only.
func allowsStream(g topology.Grant, p *topology.Port) bool {
	kind := "UDPRoute"
	if p.Protocol == topology.TCP {
		kind = "TCPRoute"
		if slices.ContainsFunc(g.Rules, func(r topology.Rule) bool { return r.Kind == "HTTPRouteGroup" }) {
			return false
		}
	}
	return (g.Port == 0 || g.Port == p.Number) && slices.ContainsFunc(g.Rules, func(r topology.Rule) bool {
		return r.Kind == kind && !r.Broken && (len(r.Ports) == 0 || slices.Contains(r.Ports, p.Number))
	})
}
