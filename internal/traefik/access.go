package traefik

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/smi"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// Policy says who may call a protected service. The zero value lets nobody in.
//
// Traefik knows callers by their addresses only, and only at the first hop: there is no identity between nodes and
// nothing on the server's side. So HTTP is let in by the addresses of the pods that a source has now, and TCP and UDP are
// closed.
type Policy struct {
	HTTP []Allow
}

// Allow lets sources in on some ports with some requests.
type Allow struct {
	Sources []netip.Addr    // the callers' addresses; none lets nobody in
	Ports   []int32         // of the service; none = all
	Matches []smi.HTTPMatch // none = all requests
}

// access is what a policy means for a route.
type access struct {
	protected bool
	port      int32
	allow     []Allow // none: closed
}

// access judges the backends of a route. Each is judged by its own policy, and Traefik does that before it draws one: a
// route whose backends don't all have the same answer is closed.
func (r *renderer) access(shares []share) access {
	var out access
	if len(r.config.Protected) == 0 {
		return out
	}
	var open, closed []string
	for _, s := range shares {
		if s.unit == nil || s.port == nil {
			continue
		}
		policy, protected := r.config.Protected[s.unit.Name]
		if !protected {
			open = append(open, s.unit.Name.String())
			continue
		}
		closed = append(closed, s.unit.Name.String())
		out = access{protected: true, port: s.port.Number, allow: policy.HTTP}
	}
	if len(closed) > 1 || len(closed) == 1 && len(open) > 0 {
		for _, s := range shares {
			if s.unit != nil && slices.Contains(closed, s.unit.Name.String()) {
				r.report(s.unit.ref(), problem.NotEnforceable, "it is protected and shares traffic of a split with %s; Traefik chooses a backend only after it let a request in, so the split is closed", problem.QuoteAll(others(append(open, closed...), s.unit.Name.String())))
			}
		}
		out.allow = nil
	}
	return out
}

func others(names []string, but string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == but })
}

// allowed lists the matchers by which requests of a match are let in.
func (r *renderer) allowed(t httpTarget, m smi.HTTPMatch) [][]string {
	var out [][]string
	for _, a := range t.access.allow {
		if len(a.Sources) == 0 || len(a.Ports) > 0 && !slices.Contains(a.Ports, t.access.port) {
			continue
		}
		matches := a.Matches
		if len(matches) == 0 {
			matches = []smi.HTTPMatch{{}}
		}
		for _, allow := range matches {
			matchers, never, err := r.matchersOf(allow)
			if err != nil || !never && isPath(m) && isPath(allow) {
				// Traefik can't judge one path by two expressions.
				r.report(t.shares[0].unit.ref(), problem.NotEnforceable, "Traefik cannot judge the match %s of a TrafficTarget (together with the match of a split); what it allows is closed", problem.Quote(allow.Name))
				continue
			}
			if !never {
				out = append(out, append(matchers, sources(sorted(a.Sources))))
			}
		}
	}
	return out
}

func isPath(m smi.HTTPMatch) bool { return strings.TrimSpace(m.PathRegex) != "" }

func sorted(list []netip.Addr) []netip.Addr {
	list = slices.Clone(list)
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}

// closedStream says whether a TCP or UDP port is closed because a backend of it is protected.
func (r *renderer) closedStream(p *topology.Port, shares []share) bool {
	closed := false
	for _, s := range shares {
		if s.unit == nil {
			continue
		}
		if _, protected := r.config.Protected[s.unit.Name]; protected {
			closed = true
			r.report(s.unit.ref(), problem.NotEnforceable, "it is protected, and Traefik knows no identity of callers of %s: port %d is closed", strings.ToUpper(string(p.Protocol)), p.Number)
		}
	}
	return closed
}
