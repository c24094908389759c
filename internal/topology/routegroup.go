package topology

import (
	"fmt"
	"strings"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/smi"
)

// routeGroups are the HTTPRouteGroups by name; broken are those that exist but could not be decoded.
type routeGroups struct {
	usable map[Name]*routeGroup
	broken map[Name]bool
}

// routeGroup is an HTTPRouteGroup with a key for each match, equal for matches that are written alike.
type routeGroup struct {
	*smi.HTTPRouteGroup
	keys []string
}

func (b *builder) routeGroups() routeGroups {
	groups := routeGroups{usable: map[Name]*routeGroup{}, broken: map[Name]bool{}}
	for i := range b.resources.SMI.HTTPRouteGroups {
		g := &routeGroup{HTTPRouteGroup: &b.resources.SMI.HTTPRouteGroups[i]}
		for _, m := range g.Matches {
			g.keys = append(g.keys, matchKey(m))
		}
		groups.usable[Name{g.Ref.Namespace, g.Ref.Name}] = g
	}
	for _, p := range b.resources.Undecodable {
		if p.Object.Kind == "HTTPRouteGroup" && strings.HasPrefix(p.Object.APIVersion, smi.SpecsGroup+"/") {
			groups.broken[Name{p.Object.Namespace, p.Object.Name}] = true
		}
	}
	return groups
}

func matchKey(m smi.HTTPMatch) string {
	return fmt.Sprintf("%q %q %q", m.PathRegex, m.Methods, m.Headers)
}

// claimed returns the split that has a match of g already, or one that fits everything. Whether two expressions overlap
// is not judged: there, the older split comes first.
func (g *routeGroup) claimed(taken map[string]*smi.TrafficSplit) *smi.TrafficSplit {
	if all := taken[matchKey(smi.HTTPMatch{})]; all != nil {
		return all
	}
	for _, key := range g.keys {
		if s := taken[key]; s != nil {
			return s
		}
	}
	return nil
}

// groupsOf returns the groups that a split names, each once. A group that cannot be used fits nothing.
func (b *builder) groupsOf(s *smi.TrafficSplit, groups routeGroups) []*routeGroup {
	var out []*routeGroup
	var missing, broken, empty []string
	seen := map[string]bool{}
	for _, name := range s.Matches {
		if seen[name] {
			continue
		}
		seen[name] = true
		id := Name{s.Ref.Namespace, name}
		g := groups.usable[id]
		switch {
		case g == nil && groups.broken[id]:
			broken = append(broken, name)
		case g == nil:
			missing = append(missing, name)
		case len(g.Matches) == 0:
			empty = append(empty, name)
		default:
			out = append(out, g)
		}
	}
	b.reportGroups(s, missing, "do not exist")
	b.reportGroups(s, broken, "cannot be used")
	b.reportGroups(s, empty, "have no matches")
	return out
}

func (b *builder) reportGroups(s *smi.TrafficSplit, names []string, what string) {
	if len(names) > 0 {
		b.report(s.Ref, problem.RouteGroupNotFound, "no request fits these HTTPRouteGroups, which %s: %s", what, problem.QuoteAll(names))
	}
}
