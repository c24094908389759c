package observed

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/access"
)

// proposal is a TrafficTarget with the routes that it names.
type proposal struct {
	name, to string
	protocol string
	ports    []uint32
	sources  []source
	matches  []match // of HTTP
}

// source is who may call, and by which calls that is known.
type source struct {
	from string
	seen map[uint32]Call // by port
}

// match is what of HTTP is allowed.
type match struct {
	path    string // a pattern
	methods []string
	seen    []Call   // in total, of each method
	folded  []string // the patterns that path stands for, if it has Any
}

// unit is what one caller did on one port of a destination. Units that are alike become one proposal.
type unit struct {
	to, from, protocol string
	port               uint32
	matches            []match
	total              Call
}

// propose turns what was seen into proposals. Two callers share a TrafficTarget only if they did the same on the same
// ports: its sources and its rules are a product, which would allow each what the other did.
func propose(m Merged) []proposal {
	byPorts := map[string][]unit{} // units of one caller that are alike but for the port
	for _, u := range units(m) {
		k := fmt.Sprintf("%s %s %s %s", u.to, u.protocol, u.from, u.shape())
		byPorts[k] = append(byPorts[k], u)
	}
	bySources := map[string]*proposal{}
	for _, k := range slices.Sorted(maps.Keys(byPorts)) {
		alike := byPorts[k]
		p := proposal{to: alike[0].to, protocol: alike[0].protocol}
		s := source{alike[0].from, map[uint32]Call{}}
		for _, u := range alike {
			p.ports = append(p.ports, u.port)
			s.seen[u.port] = u.total
		}
		slices.Sort(p.ports)
		id := fmt.Sprintf("%s %s %v %s", p.to, p.protocol, p.ports, alike[0].shape())
		if bySources[id] == nil {
			bySources[id] = &p
		}
		same := bySources[id]
		same.sources = append(same.sources, s)
		for _, u := range alike {
			same.count(u.matches)
		}
	}
	return named(slices.Collect(maps.Values(bySources)))
}

// count adds matches that are alike.
func (p *proposal) count(matches []match) {
	if p.matches == nil {
		for _, m := range matches {
			m.seen = slices.Clone(m.seen)
			p.matches = append(p.matches, m)
		}
		return
	}
	for i, m := range matches {
		for j := range m.seen {
			p.matches[i].seen[j] = p.matches[i].seen[j].with(m.seen[j])
		}
	}
}

// shape is the same for units that allow the same.
func (u unit) shape() string {
	var b strings.Builder
	for _, m := range u.matches {
		fmt.Fprintf(&b, "%s %s\n", m.path, m.methods)
	}
	return b.String()
}

// units sorts what may be proposed by caller, destination and port, whichever Services led there.
func units(m Merged) []unit {
	all := map[Peers][]Call{}
	for _, e := range m.Edges {
		if e.unnamed() {
			continue
		}
		p := e.Peers
		p.Service = "" // rules are about workloads
		for _, c := range e.Calls {
			if proposable(e.Peers, c) {
				all[p] = append(all[p], c)
			}
		}
	}
	var out []unit
	for _, p := range slices.SortedFunc(maps.Keys(all), Peers.compare) {
		u := unit{to: p.To, from: p.From, protocol: p.Protocol, port: p.Port}
		for _, c := range all[p] {
			u.total = u.total.with(c)
		}
		if p.Protocol == http {
			u.matches = matches(all[p])
		}
		out = append(out, u)
	}
	return out
}

// unnamed says that the caller or the destination has no name that a TrafficTarget could give it.
func (e *Edge) unnamed() bool { return e.From == "" || strings.HasSuffix(e.To, "/") }

// proposable says that a rule can allow just this call, and that it is known who made it.
func proposable(p Peers, c Call) bool {
	switch c.Reason {
	case access.UnknownCaller, access.IdentityStale, access.CallerNotLocal:
		return false
	}
	return p.Protocol != http || c.Path != Unsafe && c.Path != Long && c.Path != "" && c.Method != Other
}

// matches are what requests on one port become. Names are folded for each method by itself: what one method was seen with
// says nothing of another.
func matches(calls []Call) []match {
	byMethod := map[string]map[string]Call{}
	for _, c := range calls {
		if byMethod[c.Method] == nil {
			byMethod[c.Method] = map[string]Call{}
		}
		byMethod[c.Method][c.Path] = byMethod[c.Method][c.Path].with(c)
	}
	byPath := map[string]*match{}
	for _, method := range slices.Sorted(maps.Keys(byMethod)) {
		seen := byMethod[method]
		folded := fold(slices.Collect(maps.Keys(seen)))
		totals := map[string]Call{}
		for _, from := range slices.Sorted(maps.Keys(folded)) {
			to := folded[from]
			totals[to] = totals[to].with(seen[from])
			m := byPath[to]
			if m == nil {
				m = &match{path: to}
				byPath[to] = m
			}
			if from != to {
				m.folded = append(m.folded, from)
			}
		}
		for path, total := range totals {
			byPath[path].methods = append(byPath[path].methods, method)
			byPath[path].seen = append(byPath[path].seen, total)
		}
	}
	var out []match
	for _, path := range slices.Sorted(maps.Keys(byPath)) {
		m := byPath[path]
		slices.Sort(m.folded)
		m.folded = slices.Compact(m.folded) // several methods may have one
		out = append(out, *m)
	}
	return out
}

// named sorts proposals and gives each a name of its own in its namespace. The same calls give the same names, so that
// what is proposed anew takes the place of what was proposed before.
func named(all []*proposal) []proposal {
	var out []proposal
	for _, p := range all {
		slices.SortFunc(p.sources, func(a, b source) int { return cmp.Compare(a.from, b.from) })
		out = append(out, *p)
	}
	slices.SortFunc(out, func(a, b proposal) int {
		return cmp.Or(cmp.Compare(a.to, b.to), cmp.Compare(a.protocol, b.protocol), slices.Compare(a.ports, b.ports), cmp.Compare(a.sources[0].from, b.sources[0].from))
	})
	taken := map[string]bool{}
	for i := range out {
		namespace, account, _ := strings.Cut(out[i].to, "/")
		base := baseName(account, out[i].protocol, out[i].ports)
		out[i].name = base
		for n := 2; taken[namespace+"/"+out[i].name]; n++ {
			out[i].name = fmt.Sprintf("%s-%d", base, n)
		}
		taken[namespace+"/"+out[i].name] = true
	}
	return out
}

// baseName is "observed-web-http-80".
func baseName(account, protocol string, ports []uint32) string {
	const longest, mostPorts = 200, 4 // the names of objects have 253 characters at most
	name := strings.TrimRight(account[:min(len(account), longest)], "-.")
	parts := []string{"observed", name, protocol}
	for _, p := range ports[:min(len(ports), mostPorts)] {
		parts = append(parts, fmt.Sprint(p))
	}
	return strings.Join(parts, "-")
}
