package traefik

import (
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// hosts knows the mesh names by which HTTP ports are known on the shared entry points.
type hosts struct {
	zones []string // longest first
}

func newHosts(zones []string) hosts {
	var h hosts
	for _, z := range zones {
		if z = strings.ToLower(strings.Trim(z, ".")); z != "" {
			h.zones = append(h.zones, z)
		}
	}
	slices.SortStableFunc(h.zones, func(a, b string) int { return len(b) - len(a) })
	return h
}

// matcher fits the names of a unit; it is empty if the unit has none of its own.
func (h hosts) matcher(u *unit, units map[shadow.Unit]*unit) string {
	var names []string
	for i, zone := range h.zones {
		for _, name := range namesOf(u.Service, zone) {
			if !h.claimed(name, i, units) {
				names = append(names, name)
			}
		}
	}
	if len(names) == 0 {
		return ""
	}
	return matcher("Host", names...)
}

// claimed says whether a name of the zone with the index is the name of another unit in a longer zone, too: where a zone
// ends in another, the longer one is meant, as everywhere in the mesh.
func (h hosts) claimed(name string, zone int, units map[shadow.Unit]*unit) bool {
	for _, longer := range h.zones[:zone] {
		rest, ok := strings.CutSuffix(name, "."+longer)
		if !ok {
			continue
		}
		labels := strings.Split(strings.TrimSuffix(rest, ".svc.local"), ".")
		var u shadow.Unit
		switch len(labels) {
		case 2:
			u.Name = topology.Name{Namespace: labels[1], Name: labels[0]}
		case 3:
			u.Name, u.Pod = topology.Name{Namespace: labels[2], Name: labels[1]}, labels[0]
		}
		if other := units[u]; other != nil && !other.Backend {
			return true
		}
	}
	return false
}

// namesOf are the mesh names of a unit in a zone.
func namesOf(s *topology.Service, zone string) []string {
	name := s.Name.Name + "." + s.Name.Namespace
	if s.Pod != "" {
		return []string{s.Pod + "." + name + "." + zone}
	}
	return []string{name + "." + zone, name + ".svc.local." + zone}
}
