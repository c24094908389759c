package corefile

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
)

const (
	serverName       = "tulle" // of our entry in spec.servers; the operator takes service names of at most 15 characters
	serverAnnotation = "tulle.dev/dns-server"
)

// PatchOpenShift returns OpenShift's DNS object (as decoded JSON) with an entry for the mesh in spec.servers. obj is not
// changed.
func (b Block) PatchOpenShift(obj map[string]any) (map[string]any, error) {
	switch owner := annotation(obj, serverAnnotation); {
	case owner != "" && owner != b.Mesh:
		return nil, &OtherMeshError{Namespace: owner}
	case owner == "" && slices.ContainsFunc(servers(obj), isOurs):
		return nil, &TakenError{Zone: b.Zones[0], Where: fmt.Sprintf("an entry %q in spec.servers that is not the mesh's", serverName)}
	}
	mine := b.openShiftServer()
	list := slices.Clone(servers(obj))
	for _, s := range list {
		if isOurs(s) {
			continue
		}
		if zone, theirs, taken := b.takes(s); taken {
			return nil, &TakenError{Zone: zone, Where: fmt.Sprintf("the entry for %s in spec.servers", theirs)}
		}
	}
	if i := slices.IndexFunc(list, isOurs); i < 0 {
		list = append(list, mine)
	} else if !sameServer(list[i], mine) {
		list[i] = mine
	}
	return withServers(obj, list, b.Mesh), nil
}

// UnpatchOpenShift takes the mesh's entry out again. Without one it returns obj itself.
func UnpatchOpenShift(obj map[string]any, mesh string) map[string]any {
	if annotation(obj, serverAnnotation) != mesh {
		return obj
	}
	return withServers(obj, slices.DeleteFunc(slices.Clone(servers(obj)), isOurs), "")
}

func (b Block) openShiftServer() map[string]any {
	var zones, to []any
	for _, z := range b.Zones {
		zones = append(zones, z)
	}
	for _, a := range b.Servers {
		to = append(to, a.String())
	}
	return map[string]any{
		"name": serverName, "zones": zones,
		"forwardPlugin": map[string]any{"policy": "Sequential", "upstreams": to},
	}
}

// takes finds a zone of ours that another entry serves.
func (b Block) takes(server any) (zone, theirs string, taken bool) {
	m, _ := server.(map[string]any)
	list, _ := m["zones"].([]any)
	for _, z := range list {
		name, _ := z.(string)
		for _, zone := range b.Zones {
			if within(normalZone(name), zone) {
				return zone, name, true
			}
		}
	}
	return "", "", false
}

// sameServer ignores what the API server or the operator filled in.
func sameServer(have any, want map[string]any) bool {
	m, _ := have.(map[string]any)
	forward, _ := m["forwardPlugin"].(map[string]any)
	wanted, _ := want["forwardPlugin"].(map[string]any)
	return reflect.DeepEqual(m["zones"], want["zones"]) && reflect.DeepEqual(forward["upstreams"], wanted["upstreams"]) &&
		forward["policy"] == wanted["policy"]
}

func isOurs(server any) bool {
	m, _ := server.(map[string]any)
	return m["name"] == serverName
}

func servers(obj map[string]any) []any {
	spec, _ := obj["spec"].(map[string]any)
	list, _ := spec["servers"].([]any)
	return list
}

func annotation(obj map[string]any, name string) string {
	meta, _ := obj["metadata"].(map[string]any)
	all, _ := meta["annotations"].(map[string]any)
	s, _ := all[name].(string)
	return s
}

// withServers copies what it changes. An empty list or annotation is left out.
func withServers(obj map[string]any, list []any, mesh string) map[string]any {
	out := maps.Clone(obj)
	spec, meta := child(out, "spec"), child(out, "metadata")
	annotations := child(meta, "annotations")
	if annotations[serverAnnotation] = mesh; mesh == "" {
		delete(annotations, serverAnnotation)
	}
	if len(annotations) == 0 {
		delete(meta, "annotations")
	}
	if spec["servers"] = list; len(list) == 0 {
		delete(spec, "servers")
	}
	return out
}

// child replaces a map within a map by a copy that may be changed.
func child(m map[string]any, name string) map[string]any {
	c, _ := m[name].(map[string]any)
	if c = maps.Clone(c); c == nil {
		c = map[string]any{}
	}
	m[name] = c
	return c
}
