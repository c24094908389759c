package route

import (
	"strings"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

// longForm is between the namespace and the zone in the long form of a mesh name, name.ns.svc.local.zone.
const longForm = ".svc.local"

// lookup finds the HTTP port that a Host header means: a mesh name in any letter case, with or without a trailing dot
// and a port.
func (t *Table) lookup(host string, port uint32) *Port {
	name := strings.ToLower(hostname(host))
	for _, zone := range t.Zones {
		rest, ok := strings.CutSuffix(name, "."+zone)
		if !ok {
			continue
		}
		key, ok := serviceKey(rest)
		if !ok {
			continue
		}
		if p := t.Services[key].Port(port, false); p != nil && p.Protocol == configv1.Protocol_PROTOCOL_HTTP {
			return p
		}
	}
	return nil
}

// hostname cuts the port and the trailing dot off a Host header. IP literals come out mangled, which is as good as any
// other name that doesn't exist.
func hostname(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		host = host[:i]
	}
	return strings.TrimSuffix(host, ".")
}

// serviceKey turns what precedes the zone into the name of a Service resource.
func serviceKey(rest string) (string, bool) {
	if short, ok := strings.CutSuffix(rest, longForm); ok && strings.Count(short, ".") == 1 {
		rest = short
	}
	labels := strings.Split(rest, ".")
	switch len(labels) {
	case 2: // name.ns
		return labels[1] + "/" + labels[0], labels[0] != "" && labels[1] != ""
	case 3: // pod.name.ns
		return labels[2] + "/" + labels[1] + "/" + labels[0], labels[0] != "" && labels[1] != "" && labels[2] != ""
	}
	return "", false
}
