package accesstest

import "strings"

// Objects renders the model as the content of Kubernetes objects: TrafficTargets and routes.
func (m *Model) Objects() []map[string]any {
	var out []map[string]any
	object := func(version, kind, name string, spec map[string]any) {
		out = append(out, map[string]any{
			"apiVersion": version, "kind": kind, "metadata": map[string]any{"namespace": "shop", "name": name}, "spec": spec,
		})
	}
	for name, matches := range m.Groups {
		list := []any{}
		for _, match := range matches {
			list = append(list, match.object())
		}
		object("specs.smi-spec.io/v1alpha4", "HTTPRouteGroup", name, map[string]any{"matches": list})
	}
	for kind, routes := range map[string]map[string][]int{"TCPRoute": m.TCP, "UDPRoute": m.UDP} {
		for name, ports := range routes {
			spec := map[string]any{}
			if ports != nil {
				list := []any{}
				for _, p := range ports {
					list = append(list, int64(p))
				}
				spec["matches"] = map[string]any{"ports": list}
			}
			object("specs.smi-spec.io/v1alpha4", kind, name, spec)
		}
	}
	for _, t := range m.Targets {
		object("access.smi-spec.io/v1alpha2", "TrafficTarget", t.Name, t.spec())
	}
	return out
}

func (m Match) object() map[string]any {
	out := map[string]any{"name": m.Name}
	if m.Path != "" {
		out["pathRegex"] = m.Path
	}
	if m.Methods != nil {
		list := []any{}
		for _, method := range m.Methods {
			list = append(list, method)
		}
		out["methods"] = list
	}
	if m.Headers != nil {
		list := []any{}
		for _, h := range m.Headers {
			list = append(list, map[string]any{h[0]: h[1]})
		}
		out["headers"] = list
	}
	return out
}

func (t Target) spec() map[string]any {
	destination := map[string]any{"kind": "ServiceAccount", "name": t.Destination}
	if t.Port != 0 {
		destination["port"] = int64(t.Port)
	}
	sources, rules := []any{}, []any{}
	for _, s := range t.Sources {
		namespace, name, _ := strings.Cut(s, "/")
		source := map[string]any{"kind": "ServiceAccount", "name": name}
		if namespace != "shop" { // an omitted one is the target's own
			source["namespace"] = namespace
		}
		sources = append(sources, source)
	}
	for _, r := range t.Rules {
		rule := map[string]any{"kind": r.Kind, "name": r.Name}
		if r.Matches != nil {
			list := []any{}
			for _, name := range r.Matches {
				list = append(list, name)
			}
			rule["matches"] = list
		}
		rules = append(rules, rule)
	}
	return map[string]any{"destination": destination, "sources": sources, "rules": rules}
}
