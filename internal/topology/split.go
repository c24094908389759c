package topology

import (
	"cmp"
	"fmt"
	"math"
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

// ruling are the splits that act on one root.
type ruling struct {
	matched  []matchedSplit
	fallback *smi.TrafficSplit // the one without matches
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
		if len(s.Matches) == 0 {
			if r.fallback == nil {
				r.fallback = s
			} else {
				b.conflict(s, r.fallback)
			}
			continue
		}
		matches := b.matchesOf(s, groups)
		if older := claimed(taken, matches); older != nil {
			b.conflict(s, older)
			continue
		}
		for _, m := range matches {
			taken[matchKey(m)] = s
		}
		if len(matches) > 0 { // without any it fits nothing; as a route it would fit everything
			r.matched = append(r.matched, matchedSplit{s, matches})
		}
	}
	return r
}

func (b *builder) conflict(s, winner *smi.TrafficSplit) {
	b.report(s.Ref, problem.ConflictingSplit, "the older TrafficSplit %s acts on the same traffic of the service %s; this one has no effect", problem.Quote(winner.Ref.Name), problem.Quote(s.Service))
}

// claimed returns the split that has one of the matches already. Whether two expressions overlap is not judged: there,
// the older split comes first.
func claimed(taken map[string]*smi.TrafficSplit, matches []smi.HTTPMatch) *smi.TrafficSplit {
	if all := taken[matchKey(smi.HTTPMatch{})]; all != nil && len(matches) > 0 {
		return all
	}
	for _, m := range matches {
		if s := taken[matchKey(m)]; s != nil {
			return s
		}
	}
	return nil
}

// matchKey is equal for matches that fit the same requests as written.
func matchKey(m smi.HTTPMatch) string {
	return fmt.Sprintf("%q %q %q", m.PathRegex, m.Methods, m.Headers)
}

// routeGroups are the HTTPRouteGroups by name; broken are those that exist but could not be decoded.
type routeGroups struct {
	usable map[Name]*smi.HTTPRouteGroup
	broken map[Name]bool
}

func (b *builder) routeGroups() routeGroups {
	g := routeGroups{usable: map[Name]*smi.HTTPRouteGroup{}, broken: map[Name]bool{}}
	for i := range b.resources.SMI.HTTPRouteGroups {
		group := &b.resources.SMI.HTTPRouteGroups[i]
		g.usable[Name{group.Ref.Namespace, group.Ref.Name}] = group
	}
	for _, p := range b.resources.Undecodable {
		if p.Object.Kind == "HTTPRouteGroup" && strings.HasPrefix(p.Object.APIVersion, smi.SpecsGroup+"/") {
			g.broken[Name{p.Object.Namespace, p.Object.Name}] = true
		}
	}
	return g
}

// matchesOf merges the matches of the groups that a split names. A group that cannot be used fits nothing.
func (b *builder) matchesOf(s *smi.TrafficSplit, groups routeGroups) []smi.HTTPMatch {
	var out []smi.HTTPMatch
	seen := map[string]bool{}
	for _, name := range s.Matches {
		if seen[name] {
			continue
		}
		seen[name] = true
		id := Name{s.Ref.Namespace, name}
		group, why := groups.usable[id], ""
		switch {
		case groups.broken[id] && group == nil:
			why = "cannot be used"
		case group == nil:
			why = "does not exist"
		case len(group.Matches) == 0:
			why = "has no matches"
		default:
			out = append(out, group.Matches...)
			continue
		}
		b.report(s.Ref, problem.RouteGroupNotFound, "the HTTPRouteGroup %s %s; no request fits it", problem.Quote(name), why)
	}
	return out
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

// candidate is a backend that exists.
type candidate struct {
	service *Service
	weight  int64
	lacks   []string
}

// backendsOf finds the backends of a split in the order they are written. Two shares of one service are added up.
func (b *builder) backendsOf(s *smi.TrafficSplit, root *Service) []*candidate {
	var out []*candidate
	found := map[string]*candidate{}
	for _, sb := range s.Backends {
		if c, ok := found[sb.Service]; ok {
			if c != nil {
				c.weight = min(c.weight+sb.Weight, math.MaxUint32)
			}
			continue
		}
		found[sb.Service] = nil
		service := b.backend(Name{s.Ref.Namespace, sb.Service})
		if service == nil {
			b.report(s.Ref, problem.BackendNotFound, "the backend %s does not exist or cannot be meshed; it gets nothing until it can", problem.Quote(sb.Service))
			continue
		}
		if service == root {
			b.report(s.Ref, problem.SelfReference, "the root service %s is a backend, too; that share goes to its own endpoints", problem.Quote(sb.Service))
		}
		c := &candidate{service: service, weight: sb.Weight}
		found[sb.Service] = c
		out = append(out, c)
	}
	return out
}

// backend returns a service for its endpoints; one that is not meshed itself joins the list for them.
func (b *builder) backend(name Name) *Service {
	if s := b.services[name]; s != nil {
		return s
	}
	svc := b.index.services[name]
	if svc == nil || !isAPIServer(svc) {
		return nil
	}
	s, _ := b.service(svc)
	if s != nil {
		s.Backend = true
		b.services[name] = s
	}
	return s
}
