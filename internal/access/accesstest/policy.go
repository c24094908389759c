package accesstest

import (
	"strings"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

// Policy renders what a proxy would be sent about a workload, without any of the code that does so otherwise.
func (m *Model) Policy(workload string) *configv1.Policy {
	p := &configv1.Policy{Namespace: "shop", ServiceAccount: workload, Mode: configv1.AccessMode_ACCESS_MODE_ENFORCE}
	index := map[string]uint32{}
	for _, name := range []string{"g0", "g1", "g2"} {
		g := &configv1.MatchGroup{Name: name}
		for _, match := range m.Groups[name] {
			g.Matches = append(g.Matches, match.config())
		}
		index[name] = uint32(len(p.GetGroups()))
		p.Groups = append(p.Groups, g)
	}
	for _, t := range m.Targets {
		if t.Destination != workload {
			continue
		}
		g := &configv1.Grant{Target: "shop/" + t.Name, Port: uint32(t.Port)}
		for _, s := range t.Sources {
			namespace, name, _ := strings.Cut(s, "/")
			g.Sources = append(g.Sources, &configv1.Source{Namespace: namespace, ServiceAccount: name})
		}
		for _, r := range t.Rules {
			g.Rules = append(g.Rules, m.rule(r, index))
		}
		p.Grants = append(p.Grants, g)
	}
	return p
}

func (m *Model) rule(r Rule, index map[string]uint32) *configv1.Rule {
	out := &configv1.Rule{Name: r.Name}
	var ports []int
	switch r.Kind {
	case "HTTPRouteGroup":
		out.Kind, out.Group = configv1.RuleKind_RULE_KIND_HTTP, index[r.Name]
		for i, match := range m.Groups[r.Name] {
			for _, name := range r.Matches {
				if match.Name == name {
					out.Matches = append(out.Matches, uint32(i))
				}
			}
		}
		out.Broken = len(m.Groups[r.Name]) == 0 || len(r.Matches) > 0 && len(out.GetMatches()) == 0
		return out
	case "TCPRoute":
		out.Kind = configv1.RuleKind_RULE_KIND_TCP
		ports, out.Broken = m.TCP[r.Name], m.TCP[r.Name] == nil && r.Name == "gone"
	case "UDPRoute":
		out.Kind = configv1.RuleKind_RULE_KIND_UDP
		ports, out.Broken = m.UDP[r.Name], m.UDP[r.Name] == nil && r.Name == "gone"
	}
	out.Broken = out.GetBroken() || len(r.Matches) > 0
	for _, p := range ports {
		out.Ports = append(out.Ports, uint32(p))
	}
	return out
}

func (m Match) config() *configv1.Match {
	out := &configv1.Match{Name: m.Name}
	if m.Path != "" {
		out.PathRegex = "^(?:" + m.Path + ")"
	}
	star := false
	for _, method := range m.Methods {
		star = star || method == "*"
		out.Methods = append(out.Methods, strings.ToUpper(method))
	}
	if star {
		out.Methods = nil
	}
	for _, h := range m.Headers {
		out.Headers = append(out.Headers, &configv1.HeaderMatch{Name: strings.ToLower(h[0]), ValueRegex: "^(?:" + h[1] + ")$"})
	}
	return out
}
