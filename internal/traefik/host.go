package traefik

import (
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// hostKey is an HTTP port of a unit.
type hostKey struct {
	unit string
	port int32
}

// hostsOf lists the mesh names by which HTTP ports are known on the shared entry points. Where a zone ends in another,
// one name may be that of two services: the one of the longer zone is meant, as everywhere in the mesh.
func hostsOf(zones []string, t topology.Topology, a shadow.Assigned) map[hostKey][]string {
	zones = zonesOf(zones)
	slices.SortStableFunc(zones, func(a, b string) int { return len(b) - len(a) })
	nested := slices.ContainsFunc(zones, func(z string) bool {
		return slices.ContainsFunc(zones, func(other string) bool { return strings.HasSuffix(z, "."+other) })
	})
	type claim struct {
		host string
		port int32
	}
	out, taken := map[hostKey][]string{}, map[claim]bool{}
	for _, zone := range zones {
		for i := range t.Services {
			s := &t.Services[i]
			if s.Backend || !a.Units[shadow.Unit{Name: s.Name, Pod: s.Pod}].Shared {
				continue
			}
			names := namesOf(s, zone)
			for _, p := range s.Ports {
				if p.Protocol != topology.HTTP {
					continue
				}
				key := hostKey{unitName(s), p.Number}
				for _, host := range names {
					if nested {
						if taken[claim{host, p.Number}] {
							continue
						}
						taken[claim{host, p.Number}] = true
					}
					out[key] = append(out[key], host)
				}
			}
		}
	}
	return out
}

// namesOf are the mesh names of a unit in a zone.
func namesOf(s *topology.Service, zone string) []string {
	name := s.Name.Name + "." + s.Name.Namespace
	if s.Pod != "" {
		return []string{s.Pod + "." + name + "." + zone}
	}
	return []string{name + "." + zone, name + ".svc.local." + zone}
}
