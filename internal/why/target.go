package why

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/access"
)

// Target is what one TrafficTarget has to do with the call.
type Target struct {
	Name   string `json:"name"`
	Allow  bool   `json:"allow"`
	Reason string `json:"reason,omitempty"`
	Rules  []Rule `json:"rules,omitempty"` // only of targets that list the caller
}

// Rule is one rule of a target, or one match of it.
type Rule struct {
	Kind  string `json:"kind"`
	Name  string `json:"name"`
	Match string `json:"match,omitempty"`
	Fits  bool   `json:"fits"`
	Why   string `json:"why,omitempty"` // it does not fit
}

// targets asks about each grant by itself. What it says is what the proxies would decide if there were no other.
func targets(p *configv1.Policy, c access.Caller, port access.Port, r *access.Request) []Target {
	var out []Target
	for _, g := range p.GetGrants() {
		v := judge(p, g, c, port, r)
		t := Target{Name: g.GetTarget(), Allow: v.Reason == "", Reason: string(v.Reason)}
		if v.Reason != access.SourceDenied && c.Standing == access.Known {
			t.Rules = rules(p, g, c, port, r)
		}
		out = append(out, t)
	}
	return out
}

// judge decides by one grant alone, as if it were enforced.
func judge(p *configv1.Policy, g *configv1.Grant, c access.Caller, port access.Port, r *access.Request) access.Verdict {
	w, err := new(access.Compiler).Compile(&configv1.Policy{Groups: p.GetGroups(), Grants: []*configv1.Grant{g}})
	if err != nil {
		return access.Verdict{Reason: access.NoPolicy} // it was compiled before
	}
	return access.Decide(c, w, port, r)
}

func rules(p *configv1.Policy, g *configv1.Grant, c access.Caller, port access.Port, r *access.Request) []Rule {
	var out []Rule
	for _, rule := range g.GetRules() {
		one := Rule{Kind: kindOf(rule.GetKind()), Name: rule.GetName()}
		switch {
		case rule.GetBroken():
			one.Why = "it does not exist, cannot be used, or names matches that do not exist"
			out = append(out, one)
		case rule.GetKind() == configv1.RuleKind_RULE_KIND_HTTP:
			out = append(out, matches(p, g, rule, c, port, r)...)
		default:
			alone := &configv1.Grant{Target: g.GetTarget(), Sources: g.GetSources(), Port: g.GetPort(), Rules: []*configv1.Rule{rule}}
			if v := judge(p, alone, c, port, r); v.Reason == "" {
				one.Fits = true
			} else {
				one.Why = "it is about other ports, or another protocol"
			}
			out = append(out, one)
		}
	}
	return out
}

// matches asks about every match of a rule, together with the ports that the target is limited to.
func matches(p *configv1.Policy, g *configv1.Grant, rule *configv1.Rule, c access.Caller, port access.Port, r *access.Request) []Rule {
	group := p.GetGroups()[rule.GetGroup()]
	chosen := rule.GetMatches()
	if len(chosen) == 0 {
		for i := range group.GetMatches() {
			chosen = append(chosen, uint32(i))
		}
	}
	var out []Rule
	for _, i := range chosen {
		m := group.GetMatches()[i]
		one := Rule{Kind: kindOf(rule.GetKind()), Name: rule.GetName(), Match: m.GetName()}
		switch reason := withMatch(g, m, c, port, r).Reason; reason {
		case "":
			one.Fits = true
		case access.PortDenied:
			one.Why = "the target is limited to other ports, or the call is no HTTP"
		case access.BadPath:
			one.Why = "the path has no canonical form"
		default:
			one.Why = missing(g, m, c, port, r)
		}
		out = append(out, one)
	}
	return out
}

// withMatch decides by a grant that has one match only, and its rules about ports.
func withMatch(g *configv1.Grant, m *configv1.Match, c access.Caller, port access.Port, r *access.Request) access.Verdict {
	alone := &configv1.Grant{Target: g.GetTarget(), Sources: g.GetSources(), Port: g.GetPort()}
	alone.Rules = append(alone.Rules, &configv1.Rule{Kind: configv1.RuleKind_RULE_KIND_HTTP})
	for _, other := range g.GetRules() {
		if other.GetKind() == configv1.RuleKind_RULE_KIND_TCP {
			alone.Rules = append(alone.Rules, other)
		}
	}
	return judge(&configv1.Policy{Groups: []*configv1.MatchGroup{{Matches: []*configv1.Match{m}}}}, alone, c, port, r)
}

// missing says which part of a match does not fit: the first that does not by itself.
func missing(g *configv1.Grant, m *configv1.Match, c access.Caller, port access.Port, r *access.Request) string {
	fits := func(part *configv1.Match) bool { return withMatch(g, part, c, port, r).Reason == "" }
	if len(m.GetMethods()) > 0 && !fits(&configv1.Match{Methods: m.GetMethods()}) {
		return fmt.Sprintf("the method is none of %v", m.GetMethods())
	}
	if m.GetPathRegex() != "" && !fits(&configv1.Match{PathRegex: m.GetPathRegex()}) {
		return "the path does not fit " + m.GetPathRegex()
	}
	for _, h := range m.GetHeaders() {
		if !fits(&configv1.Match{Headers: []*configv1.HeaderMatch{proto.CloneOf(h)}}) {
			return fmt.Sprintf("the header %s is not there or does not fit %s", h.GetName(), h.GetValueRegex())
		}
	}
	return "it does not fit"
}

func kindOf(k configv1.RuleKind) string {
	switch k {
	case configv1.RuleKind_RULE_KIND_TCP:
		return "TCPRoute"
	case configv1.RuleKind_RULE_KIND_UDP:
		return "UDPRoute"
	case configv1.RuleKind_RULE_KIND_HTTP, configv1.RuleKind_RULE_KIND_UNSPECIFIED:
	}
	return "HTTPRouteGroup"
}
