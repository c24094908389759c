package shadow

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// held is State, indexed.
type held struct {
	services map[string]*corev1.Service
	slices   map[string][]*discoveryv1.EndpointSlice // by shadow Service, sorted by name
	targets  map[string]map[PortKey]int32            // by shadow Service, as recorded
	members  members
}

func index(s State) held {
	h := held{
		services: make(map[string]*corev1.Service, len(s.Services)),
		slices:   make(map[string][]*discoveryv1.EndpointSlice, len(s.Slices)),
		targets:  make(map[string]map[PortKey]int32, len(s.Services)),
	}
	for _, svc := range s.Services {
		h.services[svc.Name] = svc
		h.targets[svc.Name] = recorded(svc)
	}
	for _, sl := range s.Slices {
		name := sl.Labels[discoveryv1.LabelServiceName]
		h.slices[name] = append(h.slices[name], sl)
	}
	for name, list := range h.slices {
		slices.SortFunc(list, func(a, b *discoveryv1.EndpointSlice) int { return strings.Compare(a.Name, b.Name) })
		if h.services[name] == nil {
			h.targets[name] = slicePorts(list)
		}
	}
	if svc := h.services[SharedName]; svc != nil {
		h.members = parseMembers(svc.Annotations[membersAnnotation])
	}
	return h
}

// slicePorts reads target ports back from the slices of a Service that somebody deleted.
func slicePorts(list []*discoveryv1.EndpointSlice) map[PortKey]int32 {
	out := map[PortKey]int32{}
	for _, sl := range list {
		for _, p := range sl.Ports {
			if p.Name == nil || p.Port == nil {
				continue
			}
			if k, ok := parsePortName(*p.Name); ok {
				out[k] = *p.Port
			}
		}
	}
	return out
}

// served says whether the cluster leads these ports of a shadow Service to proxies: it has an address, and slices with
// endpoints on them.
func (h held) served(name string, ports []PortKey) bool {
	svc := h.services[name]
	if svc == nil || len(addresses(svc)) == 0 {
		return false
	}
	any := false
	for _, sl := range h.slices[name] {
		if len(sl.Endpoints) == 0 {
			continue
		}
		any = true
		for _, k := range ports {
			if !slices.ContainsFunc(sl.Ports, func(p discoveryv1.EndpointPort) bool { return p.Name != nil && *p.Name == k.name() }) {
				return false
			}
		}
	}
	return any
}

// addresses are a Service's cluster IPs.
func addresses(s *corev1.Service) []netip.Addr {
	var out []netip.Addr
	for _, ip := range s.Spec.ClusterIPs {
		if a, err := netip.ParseAddr(ip); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// at reads a time from an annotation; one that nobody can read counts as passed.
func at(s *corev1.Service, annotation string) (when time.Time, set bool) {
	v, set := s.Annotations[annotation]
	if !set {
		return time.Time{}, false
	}
	return parseTime(v), true
}

// parseTime returns the zero time, which has passed, if nobody can read v.
func parseTime(v string) time.Time {
	t, err := time.Parse(time.RFC3339, v)
	if err != nil {
		return time.Time{}
	}
	return t
}

// serving says whether the unit's names resolve to its dedicated Service as far as that is concerned.
func serving(s *corev1.Service) bool {
	_, opening := s.Annotations[openAnnotation]
	_, retiring := s.Annotations[retireAnnotation]
	return !opening && !retiring
}

// members are the units whose names may resolve to the shared address. It is remembered because a unit without a
// dedicated address is either new, and has no address yet, or comes from the shared one, which it keeps meanwhile.
type members struct {
	all  bool
	some map[string]bool // by Unit.String()
}

// maxMembers is the size up to which members are listed by name; annotations have 256 KiB in all.
const maxMembers = 128 << 10

func parseMembers(v string) members {
	if v == "*" {
		return members{all: true}
	}
	m := members{some: map[string]bool{}}
	for name := range strings.SplitSeq(v, ",") {
		if name != "" {
			m.some[name] = true
		}
	}
	return m
}

// has says whether a unit may be reached through the shared address.
func (m members) has(w want) bool { return w.http && (m.all || m.some[w.unit.String()]) }

func (m members) String() string {
	if m.all {
		return "*"
	}
	names := make([]string, 0, len(m.some))
	for name := range m.some {
		names = append(names, name)
	}
	slices.Sort(names)
	v := strings.Join(names, ",")
	if len(v) > maxMembers {
		return "*"
	}
	return v
}
