package proxyconfig

import (
	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/smi"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// Policy describes who may call a workload.
func Policy(w *topology.Workload) *configv1.Policy {
	m := &configv1.Policy{Namespace: w.Name.Namespace, ServiceAccount: w.Name.Name, Mode: modeOf(w.Mode)}
	groups := map[*smi.HTTPRouteGroup]uint32{}
	for i := range w.Grants {
		g := &w.Grants[i]
		grant := &configv1.Grant{Target: g.Target.String(), Port: uint32(g.Port)}
		for _, s := range g.Sources {
			grant.Sources = append(grant.Sources, &configv1.Source{Namespace: s.Namespace, ServiceAccount: s.Name})
		}
		for _, r := range g.Rules {
			rule := ruleOf(r)
			if r.Group != nil && !r.Broken {
				index, ok := groups[r.Group]
				if !ok {
					index = uint32(len(groups))
					groups[r.Group] = index
					m.Groups = append(m.Groups, groupOf(r.Group))
				}
				rule.Group = index
			}
			grant.Rules = append(grant.Rules, rule)
		}
		m.Grants = append(m.Grants, grant)
	}
	return m
}

// modeOf takes a mode that it doesn't know for the strongest.
func modeOf(m topology.AccessMode) configv1.AccessMode {
	if m == topology.AccessAudit {
		return configv1.AccessMode_ACCESS_MODE_AUDIT
	}
	return configv1.AccessMode_ACCESS_MODE_ENFORCE
}

func ruleOf(r topology.Rule) *configv1.Rule {
	m := &configv1.Rule{Name: r.Name, Broken: r.Broken}
	switch r.Kind {
	case "HTTPRouteGroup":
		m.Kind = configv1.RuleKind_RULE_KIND_HTTP
	case "TCPRoute":
		m.Kind = configv1.RuleKind_RULE_KIND_TCP
	case "UDPRoute":
		m.Kind = configv1.RuleKind_RULE_KIND_UDP
	}
	for _, p := range r.Ports {
		m.Ports = append(m.Ports, uint32(p))
	}
	for _, i := range r.Matches {
		m.Matches = append(m.Matches, uint32(i))
	}
	return m
}

func groupOf(g *smi.HTTPRouteGroup) *configv1.MatchGroup {
	m := &configv1.MatchGroup{Name: g.Ref.Name}
	for _, in := range g.Matches {
		match := matchOf(in)
		match.Name = in.Name
		m.Matches = append(m.Matches, match)
	}
	return m
}
