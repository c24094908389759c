package access

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"weak"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

// Workload is the compiled policy of one destination.
type Workload struct {
	mode    Mode
	sources map[Identity]*allowed
}

// DenyAll stands in for the policy of a workload that is protected, if it can't be used.
func DenyAll() *Workload { return &Workload{} }

// Mode says what becomes of calls that no rule allows.
func (w *Workload) Mode() Mode { return w.mode }

// allowed is what one source may do.
type allowed struct {
	tcp, udp  portRules // tcp is for HTTP requests, too, whatever they look like
	http      []httpRule
	httpPorts ports // on which http has rules, were it rules that fit nothing
}

type httpRule struct {
	match *match
	ports ports
	rule  *Rule
}

// ports is a set of port numbers.
type ports struct {
	all  bool
	list []uint32 // sorted
}

func (p ports) has(port uint32) bool {
	_, found := slices.BinarySearch(p.list, port)
	return p.all || found
}

// only limits p to one port; 0 is no limit.
func (p ports) only(port uint32) ports {
	switch {
	case port == 0:
		return p
	case p.has(port):
		return ports{list: []uint32{port}}
	}
	return ports{}
}

func (p ports) union(o ports) ports {
	if p.all || o.all {
		return ports{all: true}
	}
	list := slices.Concat(p.list, o.list)
	slices.Sort(list)
	return ports{list: slices.Compact(list)}
}

func (p ports) key() string { return fmt.Sprint(p.all, p.list) }

// portRules says which rule allows a port.
type portRules struct {
	all  *Rule
	port map[uint32]*Rule
}

func (p *portRules) rule(port uint32) *Rule { return cmp.Or(p.all, p.port[port]) }

func (p *portRules) add(on ports, rule *Rule) {
	if on.all {
		p.all = cmp.Or(p.all, rule)
	}
	for _, port := range on.list {
		if p.port == nil {
			p.port = map[uint32]*Rule{}
		}
		p.port[port] = cmp.Or(p.port[port], rule)
	}
}

// Compiler compiles policies. Expressions that several of them have are compiled once. The zero value is ready; it is
// safe for concurrent use.
type Compiler struct {
	mu    sync.Mutex
	exprs map[string]weak.Pointer[expr] // guarded by mu
	swept int                           // how many there were after the last sweep; guarded by mu
}

func (c *Compiler) expr(source string) (*expr, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.exprs[source].Value(); e != nil {
		return e, nil
	}
	e, err := newExpr(source)
	if err != nil {
		return nil, err
	}
	if c.exprs == nil {
		c.exprs = map[string]weak.Pointer[expr]{}
	}
	if len(c.exprs) > 2*c.swept+64 {
		for source, p := range c.exprs {
			if p.Value() == nil {
				delete(c.exprs, source)
			}
		}
		c.swept = len(c.exprs)
	}
	c.exprs[source] = weak.Make(e)
	return e, nil
}

// Compile makes a Workload of a policy. An error names what can't be used.
func (c *Compiler) Compile(p *configv1.Policy) (*Workload, error) {
	w := &Workload{sources: map[Identity]*allowed{}}
	switch p.GetMode() {
	case configv1.AccessMode_ACCESS_MODE_AUDIT:
		w.mode = Audit
	case configv1.AccessMode_ACCESS_MODE_ENFORCE, configv1.AccessMode_ACCESS_MODE_UNSPECIFIED:
	default:
		return nil, fmt.Errorf("mode %v is unknown", p.GetMode())
	}
	groups := make([][]*match, len(p.GetGroups()))
	for i, g := range p.GetGroups() {
		for _, m := range g.GetMatches() {
			compiled, err := c.match(m)
			if err != nil {
				return nil, fmt.Errorf("group %s: %w", g.GetName(), err)
			}
			groups[i] = append(groups[i], compiled)
		}
	}
	b := builder{groups: groups, out: w, seen: map[Identity]map[string]bool{}}
	for _, g := range p.GetGrants() {
		if err := b.add(g); err != nil {
			return nil, fmt.Errorf("target %s: %w", g.GetTarget(), err)
		}
	}
	return w, nil
}

// builder sorts grants by source.
type builder struct {
	groups [][]*match
	out    *Workload
	seen   map[Identity]map[string]bool // HTTP rules that a source has: many targets may name one group
}

// add gives every source of a grant what it allows. A rule that can't be used allows nothing, and still counts as one of
// its kind: its absence would widen what the grant allows.
func (b *builder) add(g *configv1.Grant) error {
	parts, err := b.partsOf(g)
	if err != nil {
		return err
	}
	for _, s := range g.GetSources() {
		id := Identity{s.GetNamespace(), s.GetServiceAccount()}
		a := b.out.sources[id]
		if a == nil {
			a = &allowed{}
			b.out.sources[id], b.seen[id] = a, map[string]bool{}
		}
		for _, r := range parts.udp {
			a.udp.add(r.ports, r.rule)
		}
		if parts.isHTTP {
			b.addHTTP(a, id, parts.httpPorts(g.GetPort()), parts.http)
			continue
		}
		for _, r := range parts.tcp {
			a.tcp.add(r.ports, r.rule)
		}
	}
	return nil
}

func (b *builder) addHTTP(a *allowed, id Identity, on ports, rules []httpRule) {
	a.httpPorts = a.httpPorts.union(on)
	key := on.key()
	for _, h := range rules {
		k := fmt.Sprintf("%p %s", h.match, key)
		if b.seen[id][k] {
			continue
		}
		b.seen[id][k] = true
		a.http = append(a.http, httpRule{h.match, on, h.rule})
	}
}

// parts is what a grant allows, by kind of rule.
type parts struct {
	tcp, udp []portRule
	http     []httpRule // without ports
	isHTTP   bool       // there are HTTP rules
}

type portRule struct {
	ports ports
	rule  *Rule
}

// httpPorts is where requests that fit an HTTP rule are allowed: on the ports of the TCP rules, if there are any.
func (p *parts) httpPorts(limit uint32) ports {
	if len(p.tcp) == 0 {
		return ports{all: true}.only(limit)
	}
	on := ports{}
	for _, r := range p.tcp {
		on = on.union(r.ports)
	}
	return on
}

func (b *builder) partsOf(g *configv1.Grant) (out parts, err error) {
	for _, r := range g.GetRules() {
		on := ports{}
		if !r.GetBroken() {
			on = ports{all: len(r.GetPorts()) == 0, list: slices.Sorted(slices.Values(r.GetPorts()))}.only(g.GetPort())
		}
		switch r.GetKind() {
		case configv1.RuleKind_RULE_KIND_HTTP:
			out.isHTTP = true
			rules, err := b.httpRules(g, r)
			if err != nil {
				return out, err
			}
			out.http = append(out.http, rules...)
		case configv1.RuleKind_RULE_KIND_TCP:
			out.tcp = append(out.tcp, portRule{on, &Rule{Target: g.GetTarget(), Kind: "TCPRoute", Route: r.GetName()}})
		case configv1.RuleKind_RULE_KIND_UDP:
			out.udp = append(out.udp, portRule{on, &Rule{Target: g.GetTarget(), Kind: "UDPRoute", Route: r.GetName()}})
		case configv1.RuleKind_RULE_KIND_UNSPECIFIED:
			fallthrough
		default:
			return out, fmt.Errorf("rule %q: kind %v is unknown", r.GetName(), r.GetKind())
		}
	}
	return out, nil
}

func (b *builder) httpRules(g *configv1.Grant, r *configv1.Rule) ([]httpRule, error) {
	if r.GetBroken() {
		return nil, nil
	}
	if uint64(r.GetGroup()) >= uint64(len(b.groups)) {
		return nil, fmt.Errorf("rule %q: there is no group %d", r.GetName(), r.GetGroup())
	}
	group := b.groups[r.GetGroup()]
	chosen := group
	if len(r.GetMatches()) > 0 {
		chosen = nil
		for _, i := range r.GetMatches() {
			if uint64(i) >= uint64(len(group)) {
				return nil, fmt.Errorf("rule %q: there is no match %d", r.GetName(), i)
			}
			chosen = append(chosen, group[i])
		}
	}
	var out []httpRule
	for _, m := range chosen {
		out = append(out, httpRule{match: m, rule: &Rule{Target: g.GetTarget(), Kind: "HTTPRouteGroup", Route: r.GetName(), Match: m.name}})
	}
	return out, nil
}
