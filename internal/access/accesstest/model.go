// Package accesstest checks access control against SMI itself: a model of TrafficTargets and what they refer to, made at
// random, and a deliberately naive evaluator of it, written from the rules of the specification (docs/conformance.md) and
// from nothing else. It shares no code with what it checks.
package accesstest

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// Model is a namespace called shop with workloads web, db and idle, which no target is about.
type Model struct {
	Targets []Target
	Groups  map[string][]Match
	TCP     map[string][]int // ports; nil = all
	UDP     map[string][]int
	// EncodedSlash is the annotation of the Services.
	EncodedSlash bool
}

// Target is a TrafficTarget for a workload of the namespace shop.
type Target struct {
	Name        string
	Destination string
	Port        int // of access v1alpha2; 0 = none
	Sources     []string
	Rules       []Rule
}

// Rule is a rule of a target.
type Rule struct {
	Kind    string
	Name    string
	Matches []string
}

// Match is a match of an HTTPRouteGroup.
type Match struct {
	Name    string
	Path    string
	Methods []string
	Headers [][2]string
}

// Call is what is asked.
type Call struct {
	Caller   string // "namespace/name"
	Standing string // "known", "unknown", "stale", "elsewhere"
	To       string // the workload
	Port     int
	Protocol string // "http", "tcp", "udp"
	Method   string
	Path     string
	Host     string
	Headers  [][2]string
}

// Ports are those that every Service of the model has, and how they are served.
func Ports() map[int]string { return map[int]string{80: "http", 8080: "http", 81: "tcp", 53: "udp"} }

// Workloads are the destinations.
func Workloads() []string { return []string{"web", "db", "idle"} }

// Callers are who calls.
func Callers() []string {
	return []string{"shop/a", "shop/b", "other/a", "shop/x.y", "shop/xzy", "shop/stranger"}
}

type random struct{ *rand.Rand }

func pick[T any](r random, list ...T) T { return list[r.IntN(len(list))] }

// some picks a few of a list, at least least.
func some[T any](r random, least int, list ...T) []T {
	list = slices.Clone(list)
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list[:min(len(list), least+r.IntN(3))]
}

// Generate makes a model.
func Generate(seed uint64) *Model {
	r := random{rand.New(rand.NewPCG(seed, 7))}
	m := &Model{Groups: map[string][]Match{}, TCP: map[string][]int{}, UDP: map[string][]int{}, EncodedSlash: r.IntN(4) == 0}
	for i := range 3 {
		var matches []Match
		for j := range r.IntN(6) {
			matches = append(matches, r.match(fmt.Sprintf("m%d", j%3)))
		}
		m.Groups[fmt.Sprintf("g%d", i)] = matches
	}
	portLists := [][]int{nil, nil, {}, {80}, {81, 80}, {8080, 80}, {80, 53}, {53}, {9999}}
	for i := range 3 {
		m.TCP[fmt.Sprintf("t%d", i)] = pick(r, portLists...)
		m.UDP[fmt.Sprintf("u%d", i)] = pick(r, portLists...)
	}
	for i := range 3 + r.IntN(6) {
		t := Target{
			Name: fmt.Sprintf("target%d", i), Destination: pick(r, "web", "web", "db"),
			Sources: some(r, 1, Callers()[:5]...), Port: pick(r, 0, 0, 0, 0, 0, 0, 0, 0, 80, 80, 81, 53),
		}
		for range 1 + r.IntN(2) {
			t.Rules = append(t.Rules, r.rule())
		}
		m.Targets = append(m.Targets, t)
	}
	return m
}

func (r random) rule() Rule {
	switch r.IntN(8) {
	case 0, 1, 2, 3:
		rule := Rule{Kind: "HTTPRouteGroup", Name: pick(r, "g0", "g0", "g1", "g1", "g2", "g2", "gone")}
		if r.IntN(4) == 0 {
			rule.Matches = some(r, 1, "m0", "m1", "m2", "missing")
		}
		return rule
	case 4, 5, 6:
		rule := Rule{Kind: "TCPRoute", Name: pick(r, "t0", "t0", "t1", "t1", "t2", "t2", "gone")}
		if r.IntN(15) == 0 {
			rule.Matches = []string{"m0"}
		}
		return rule
	}
	return Rule{Kind: "UDPRoute", Name: pick(r, "u0", "u1", "u2", "gone")}
}

func (r random) match(name string) Match {
	m := Match{Name: name, Path: pick(r, "", "", "", "/", "/api", "/api", "/api|/admin", "(?i)/ADMIN", "/a.*z$", "/", "^/x", "/caf%C3%A9", "admin", "/(a+)+$", "/[^/]+%2[fF]")}
	m.Methods = pick(r, nil, nil, nil, []string{"*"}, []string{"GET"}, []string{"get", "POST"}, []string{"PUT", "*"})
	m.Headers = pick(r, nil, nil, nil, nil, nil, nil, [][2]string{{"X-Role", "admin"}}, [][2]string{{"x-role", "admin|user"}, {"x-tenant", "t[0-9]"}}, [][2]string{{"host", "web.*"}}, [][2]string{{"x-role", ""}})
	return m
}

// Call makes a call.
func (m *Model) Call(seed uint64) Call {
	r := random{rand.New(rand.NewPCG(seed, 8))}
	c := Call{Caller: pick(r, Callers()...), Standing: "known", To: pick(r, "web", "web", "web", "web", "db", "db", "idle"), Port: pick(r, 80, 80, 80, 80, 80, 80, 8080, 8080, 81, 53)}
	c.Standing = pick(r, "known", "known", "known", "known", "known", "known", "known", "known", "known", "known", "known", "known", "known", "known", "known", "known", "known", "known", "known", "known", "known", "known", "known", "known", "known", "known", "known", "unknown", "stale", "elsewhere")
	if len(m.Targets) > 0 && r.IntN(8) > 0 { // one that stands a chance
		t := pick(r, m.Targets...)
		c.Caller, c.To = pick(r, t.Sources...), t.Destination
	}
	if c.Protocol = Ports()[c.Port]; c.Protocol != "http" {
		return c
	}
	c.Method = pick(r, "GET", "GET", "POST", "PUT", "get")
	c.Host = pick(r, "web.shop.mesh", "other", "")
	for range 1 + r.IntN(4) {
		c.Path += pick(r, "/api", "/api", "/admin", "/a", "/az", "/x", "/", "//", "/..", "/.", "/%61pi", "/%2e%2e", "/..;v=1", "/.;", "/caf\u00e9", "/caf%c3%a9", "/b;c", "/%41")
	}
	if r.IntN(12) == 0 {
		c.Path += pick(r, "%2f", "/x%2Fy", "%5c", "\\", "%00", "%0a", "%zz", "%", "#f", "\x01", "%4", "/..%3B/", "/.%3bx", " ", "%7F")
	}
	c.Headers = pick(r, nil, nil, [][2]string{{"X-Role", "admin"}}, [][2]string{{"X-Role", "admin"}, {"X-Role", "user"}},
		[][2]string{{"X-Role", "user"}, {"X-Tenant", "t1"}}, [][2]string{{"X-Role", ""}}, [][2]string{{"X-Role", "administrator"}})
	return c
}
