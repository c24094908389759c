package topology

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/smi"
)

// addTargets turns the TrafficTargets into what the protected workloads allow.
func (b *builder) addTargets() {
	if b.access.off() && len(b.resources.SMI.TrafficTargets) == 0 {
		return
	}
	t := b.newTargets()
	byDestination := map[Name][]*smi.TrafficTarget{}
	for i := range b.resources.SMI.TrafficTargets {
		target := &b.resources.SMI.TrafficTargets[i]
		if !b.namespaces.meshed(target.Ref.Namespace) {
			continue
		}
		if target.Destination.Namespace != target.Ref.Namespace {
			b.report(target.Ref, problem.DestinationElsewhere, "the destination is in the namespace %s; a TrafficTarget has an effect only in its destination's own namespace", problem.Quote(target.Destination.Namespace))
			continue
		}
		destination := Name(target.Destination)
		byDestination[destination] = append(byDestination[destination], target)
	}
	grants := map[Name][]Grant{}
	for destination, list := range byDestination {
		grants[destination] = t.grants(destination, list)
	}
	for name := range t.served {
		if mode := b.access.of(name); mode != AccessOff {
			b.workloads = append(b.workloads, Workload{Name: name, Mode: mode, Grants: grants[name]})
		}
	}
	slices.SortFunc(b.workloads, func(a, b Workload) int { return a.Name.Compare(b.Name) })
}

// targets is what TrafficTargets are looked at with.
type targets struct {
	*builder
	groups   routeGroups
	tcp, udp map[Name][]int32
	served   map[Name]map[portID]bool // the Service ports that lead to a workload
	accounts map[Name]bool            // ServiceAccounts that exist, or that pods run as
}

// portID is the number of a Service's port and its transport.
type portID struct {
	number int32
	udp    bool
}

func (b *builder) newTargets() *targets {
	t := &targets{builder: b, groups: b.routeGroups(), tcp: map[Name][]int32{}, udp: map[Name][]int32{}, served: map[Name]map[portID]bool{}, accounts: map[Name]bool{}}
	for _, r := range b.resources.SMI.TCPRoutes {
		t.tcp[Name{r.Ref.Namespace, r.Ref.Name}] = append([]int32{}, r.Ports...)
	}
	for _, r := range b.resources.SMI.UDPRoutes {
		t.udp[Name{r.Ref.Namespace, r.Ref.Name}] = append([]int32{}, r.Ports...)
	}
	for _, s := range b.services {
		for _, p := range s.Ports {
			var last Name // most endpoints of a port are of one workload
			for i := range p.Endpoints {
				if w := p.Endpoints[i].Workload; i == 0 || w != last {
					t.serve(w, portID{p.Number, p.Protocol == UDP})
					last = w
				}
			}
		}
	}
	for _, s := range b.resources.ServiceAccounts {
		t.accounts[Name{s.Namespace, s.Name}] = true
	}
	for _, p := range b.resources.Pods {
		t.accounts[workloadName(p)] = true
	}
	maps.Copy(t.accounts, mapKeys(t.served))
	return t
}

func (t *targets) serve(w Name, p portID) {
	if t.served[w] == nil {
		t.served[w] = map[portID]bool{}
	}
	t.served[w][p] = true
}

func mapKeys[V any](m map[Name]V) map[Name]bool {
	out := make(map[Name]bool, len(m))
	for k := range m {
		out[k] = true
	}
	return out
}

// grants makes what the targets of one destination allow.
func (t *targets) grants(destination Name, list []*smi.TrafficTarget) []Grant {
	slices.SortFunc(list, func(a, b *smi.TrafficTarget) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Ref.Name, b.Ref.Name))
	})
	missing := !t.accounts[destination]
	off := t.access.of(destination) == AccessOff
	limit := matchLimit{}
	var out []Grant
	for _, target := range list {
		if missing {
			t.report(target.Ref, problem.DestinationNotFound, "there is no ServiceAccount %s, and no pod runs as it; the TrafficTarget has no effect until there is", problem.Quote(destination.Name))
		}
		if off {
			t.report(target.Ref, problem.NotEnforced, "access control is off for the destination: nothing is denied")
		}
		g := t.grant(target)
		t.checkPorts(target, g, t.served[destination])
		if !limit.admit(g) {
			t.report(target.Ref, problem.TooManyMatches, "with this TrafficTarget, more than %d matches would be tried for one source; it allows nothing", maxMatches)
			continue
		}
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b Grant) int { return a.Target.Compare(b.Target) })
	return out
}

// matchLimit counts the matches that are tried for each source of a destination. Targets that choose the same matches of
// one group on the same ports cost as much as one.
type matchLimit map[smi.Identity]map[string]int

// admit says whether a grant is within the limit, and counts it if it is.
func (l matchLimit) admit(g Grant) bool {
	cost := map[string]int{}
	limits := []any{g.Port}
	for _, r := range g.Rules {
		if r.Kind == kindTCP {
			limits = append(limits, r.Broken, r.Ports)
		}
	}
	ports := fmt.Sprint(limits...)
	for _, r := range g.Rules {
		if r.Group != nil && !r.Broken {
			n := len(r.Matches)
			if n == 0 {
				n = len(r.Group.Matches)
			}
			cost[fmt.Sprint(r.Name, r.Matches, ports)] = n
		}
	}
	for _, s := range g.Sources {
		total := 0
		for _, n := range l[s] {
			total += n
		}
		for key, n := range cost {
			if l[s][key] == 0 {
				total += n
			}
		}
		if total > maxMatches {
			return false
		}
	}
	for _, s := range g.Sources {
		if l[s] == nil {
			l[s] = map[string]int{}
		}
		maps.Copy(l[s], cost)
	}
	return true
}

// The kinds of rules.
const (
	kindHTTP = "HTTPRouteGroup"
	kindTCP  = "TCPRoute"
	kindUDP  = "UDPRoute"
)

// grant finds what a target refers to. A rule that refers to nothing allows nothing, and so does a match that does not
// exist; the target's other rules count.
func (t *targets) grant(target *smi.TrafficTarget) Grant {
	g := Grant{Target: Name{target.Ref.Namespace, target.Ref.Name}, Port: target.Port}
	g.Sources = slices.Clone(target.Sources)
	slices.SortFunc(g.Sources, func(a, b smi.Identity) int { return Name(a).Compare(Name(b)) })
	g.Sources = slices.Compact(g.Sources)
	var missing []string
	for _, r := range target.Rules {
		rule, wrong := t.rule(target, r)
		g.Rules = append(g.Rules, rule)
		missing = append(missing, wrong...)
	}
	if len(missing) > 0 {
		t.report(target.Ref, problem.RouteNotFound, "these parts of its rules do not exist or cannot be used, and allow nothing: %s", problem.QuoteAll(missing))
	}
	return g
}

func (t *targets) rule(target *smi.TrafficTarget, r smi.Rule) (out Rule, missing []string) {
	out = Rule{Kind: r.Kind, Name: r.Name}
	id := Name{target.Ref.Namespace, r.Name}
	called := r.Kind + " " + r.Name
	if r.Kind == kindHTTP {
		if g := t.groups.usable[id]; g != nil {
			out.Group = g.HTTPRouteGroup
			out.Matches, missing = choose(g.HTTPRouteGroup, r.Matches)
			out.Broken = len(g.Matches) == 0 || len(r.Matches) > 0 && len(out.Matches) == 0
			if len(g.Matches) == 0 {
				return out, []string{called + " (no matches)"}
			}
			return out, missing
		}
		out.Broken = true
		return out, []string{called}
	}
	ports, ok := t.tcp[id]
	if r.Kind == kindUDP {
		ports, ok = t.udp[id]
	}
	out.Ports, out.Broken = ports, !ok || len(r.Matches) > 0
	switch {
	case !ok:
		missing = []string{called}
	case len(r.Matches) > 0: // they would choose a part, and there are no parts
		missing = prefixed(called+" match ", r.Matches)
	}
	return out, missing
}

// choose finds matches by name; several may have one name.
func choose(g *smi.HTTPRouteGroup, names []string) (indices []int, missing []string) {
	for _, name := range names {
		found := false
		for i, m := range g.Matches {
			if m.Name == name {
				indices, found = append(indices, i), true
			}
		}
		if !found {
			missing = append(missing, kindHTTP+" "+g.Ref.Name+" match "+name)
		}
	}
	slices.Sort(indices)
	return slices.Compact(indices), missing
}

func prefixed(prefix string, list []string) []string {
	var out []string
	for _, s := range list {
		out = append(out, prefix+s)
	}
	return out
}

// checkPorts tells who limits a target to ports that nobody can call: those of pods, most likely.
func (t *targets) checkPorts(target *smi.TrafficTarget, g Grant, served map[portID]bool) {
	if len(served) == 0 {
		return
	}
	tell := func(ports []int32, udp bool, what string) {
		if len(ports) > 0 && !slices.ContainsFunc(ports, func(p int32) bool { return served[portID{p, udp}] }) {
			t.report(target.Ref, problem.PortNotServed, "%s names no port (such as %d) that a Service has for the destination: ports are those of Services, not of pods", what, ports[0])
		}
	}
	for _, r := range g.Rules {
		tell(r.Ports, r.Kind == kindUDP, r.Kind+" "+problem.Quote(r.Name))
	}
	if g.Port != 0 && !served[portID{g.Port, true}] {
		tell([]int32{g.Port}, false, "destination.port")
	}
}
