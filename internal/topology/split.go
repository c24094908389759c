package topology

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/smi"
)

// addSplits applies the TrafficSplits to the routes of their root services.
func (b *builder) addSplits() {
	byRoot := map[Name][]*smi.TrafficSplit{}
	for i := range b.resources.SMI.TrafficSplits {
		s := &b.resources.SMI.TrafficSplits[i]
		if b.namespaces.meshed(s.Ref.Namespace) {
			root := Name{s.Ref.Namespace, s.Service}
			byRoot[root] = append(byRoot[root], s)
		}
	}
	groups := b.routeGroups()
	for root, splits := range byRoot {
		slices.SortFunc(splits, func(a, b *smi.TrafficSplit) int {
			return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Ref.Name, b.Ref.Name))
		})
		b.applySplits(root, splits, groups)
	}
}

// maxMatches is how many matches the splits of one root may have: the proxies try them one by one.
const maxMatches = 1000

// ruling are the splits that act on one root.
type ruling struct {
	matched  []matchedSplit
	fallback *smi.TrafficSplit // the one without matches
	matches  int               // how many all of matched have
}

type matchedSplit struct {
	split   *smi.TrafficSplit
	matches []smi.HTTPMatch
}

// applySplits sets the routes of a root from its splits, the oldest first.
func (b *builder) applySplits(root Name, splits []*smi.TrafficSplit, groups routeGroups) {
	service := b.services[root]
	if service == nil || service.Backend {
		for _, s := range splits {
			b.report(s.Ref, problem.RootNotFound, "the root service %s does not exist or is not meshed; the split has no effect until it is", problem.Quote(s.Service))
		}
		return
	}
	r := b.choose(splits, groups)
	if !slices.ContainsFunc(service.Ports, func(p Port) bool { return p.Protocol == HTTP }) {
		for _, m := range r.matched {
			b.report(m.split.Ref, problem.MatchesNeedHTTP, "the root service %s has no HTTP port, so nothing can match; the split has no effect", problem.Quote(root.Name))
		}
		r.matched = nil
	}
	routes := make([][]Route, len(service.Ports))
	for _, m := range r.matched {
		b.addRoutes(routes, service, m.split, m.matches)
	}
	if r.fallback != nil {
		b.addRoutes(routes, service, r.fallback, nil)
	}
	for i, list := range routes {
		if n := len(list); n == 0 || len(list[n-1].Matches) > 0 {
			list = append(list, service.Ports[i].own(root))
		}
		service.Ports[i].Routes = list
	}
}

// choose decides which splits act. The oldest without matches wins; of those with matches each acts whose matches are
// its own.
func (b *builder) choose(splits []*smi.TrafficSplit, groups routeGroups) ruling {
	var r ruling
	taken := map[string]*smi.TrafficSplit{} // the split that a match belongs to
	for _, s := range splits {
		switch {
		case len(s.Matches) > 0:
			b.addMatched(&r, s, b.groupsOf(s, groups), taken)
		case r.fallback == nil:
			r.fallback = s
		default:
			b.conflict(s, r.fallback)
		}
	}
	return r
}

// addMatched lets a split act, if nothing is against it. One whose groups have no matches fits nothing and is left out:
// as a route without matches it would fit everything.
func (b *builder) addMatched(r *ruling, s *smi.TrafficSplit, groups []*routeGroup, taken map[string]*smi.TrafficSplit) {
	total := r.matches
	for _, g := range groups {
		if older := g.claimed(taken); older != nil {
			b.conflict(s, older)
			return
		}
		total += len(g.Matches)
	}
	if total > maxMatches {
		b.report(s.Ref, problem.TooManyMatches, "with this TrafficSplit, the service %s would have more than %d matches; it has no effect", problem.Quote(s.Service), maxMatches)
		return
	}
	r.matches = total
	m := matchedSplit{split: s}
	for _, g := range groups {
		m.matches = append(m.matches, g.Matches...)
		for _, key := range g.keys {
			taken[key] = s
		}
	}
	if len(m.matches) > 0 {
		r.matched = append(r.matched, m)
	}
}

func (b *builder) conflict(s, winner *smi.TrafficSplit) {
	b.report(s.Ref, problem.ConflictingSplit, "the older TrafficSplit %s acts on the same traffic of the service %s; this one has no effect", problem.Quote(winner.Ref.Name), problem.Quote(s.Service))
}

// addRoutes adds the route that a split makes on each port that it acts on: with matches, those are the HTTP ports.
func (b *builder) addRoutes(routes [][]Route, root *Service, s *smi.TrafficSplit, matches []smi.HTTPMatch) {
	backends := b.backendsOf(s, root)
	name := Name{s.Ref.Namespace, s.Ref.Name}
	dead := false
	for i, p := range root.Ports {
		if len(matches) > 0 && p.Protocol != HTTP {
			continue
		}
		route := Route{Split: &name, Matches: matches}
		total := int64(0)
		for _, c := range backends {
			if bp := c.service.port(p); bp != nil {
				route.Backends = append(route.Backends, Backend{Service: c.service.Name, Port: p.Number, Weight: c.weight, Scheme: bp.Scheme})
				total += c.weight
			} else {
				c.lacks = append(c.lacks, portText(p))
			}
		}
		if len(route.Backends) > 0 {
			routes[i] = append(routes[i], route)
			dead = dead || total == 0
		}
	}
	for _, c := range backends {
		if len(c.lacks) > 0 {
			b.report(s.Ref, problem.PortMismatch, "the backend %s has no port %s; it takes no part there", problem.Quote(c.service.Name.Name), strings.Join(c.lacks, ", "))
		}
	}
	if dead {
		b.report(s.Ref, problem.AllWeightsZero, "all weights of the backends that take part are 0; what the split applies to is refused")
	}
}

func portText(p Port) string {
	if p.Protocol == UDP {
		return fmt.Sprintf("%d/UDP", p.Number)
	}
	return fmt.Sprintf("%d/TCP", p.Number)
}

// port finds the port with the number and transport of p.
func (s *Service) port(p Port) *Port {
	for i := range s.Ports {
		if s.Ports[i].compare(p) == 0 {
			return &s.Ports[i]
		}
	}
	return nil
}
