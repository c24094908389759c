package shadow

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tulle-mesh/tulle/internal/topology"
)

func small(t *testing.T) *model {
	m := newModel(t)
	m.topo.Services = []topology.Service{svc("shop", "db", "tcp/5432"), svc("shop", "dns", "tcp/53", "udp/53"), svc("shop", "web", "80", "8080")}
	m.proxies = []Proxy{proxy("p1", "n1", "10.0.1.1"), proxy("p2", "n2", "10.0.2.1")}
	return m
}

func TestServiceNamesNeverCollide(t *testing.T) {
	long := strings.Repeat("x", 63)
	units := []Unit{
		unit("a-b", "c"), unit("a", "b-c"), unit("ab", "c"), unit("a", "bc"), unit(long, long), unit(long, long[1:]),
		{Name: topology.Name{Namespace: "a", Name: "b"}, Pod: "c"},
		unit("a", "b"),
	}
	seen := map[string]Unit{}
	for _, u := range units {
		name := ServiceName(u)
		if other, ok := seen[name]; ok {
			t.Errorf("%v and %v are both %s", u, other, name)
		}
		if len(name) > 63 {
			t.Errorf("%s has %d characters", name, len(name))
		}
		seen[name] = u
	}
	if got := ServiceName(unit("shop", "web")); got != "tulle-j5gfhqz3w3ripixuje5d" {
		t.Errorf("the name of shop/web changed to %s: every address in every mesh would change", got)
	}
}

func TestNewServiceGetsAnAddressOfItsOwn(t *testing.T) {
	m := small(t)
	if a := m.observe(); len(a.Units) != 0 {
		t.Fatalf("addresses before anything was written: %v", a)
	}
	if problems := m.settle(); len(problems) > 0 {
		t.Fatal(problems)
	}
	if len(m.services) != 3 || len(m.slices) != 3 || m.writes != 6 {
		t.Errorf("%d services, %d slices, %d writes", len(m.services), len(m.slices), m.writes)
	}
	a := m.observe().Units[unit("shop", "dns")]
	if len(a.Addresses) != 1 || a.Shared || len(a.TargetPorts) != 2 || a.TargetPorts[PortKey{53, false}] == 0 || a.TargetPorts[PortKey{53, true}] == 0 {
		t.Errorf("shop/dns got %+v", a)
	}
	s := m.services[ServiceName(unit("shop", "dns"))]
	want := map[string]string{"tulle.dev/namespace": "shop", "tulle.dev/service": "dns"}
	if diff := cmp.Diff(want, s.Annotations); diff != "" {
		t.Error(diff)
	}
	if s.Spec.Selector != nil || *s.Spec.IPFamilyPolicy != corev1.IPFamilyPolicyPreferDualStack || *s.Spec.TrafficDistribution != "PreferSameNode" {
		t.Errorf("spec is %+v", s.Spec)
	}
}

func TestSliceHoldsOneProxyPerNodeWithHints(t *testing.T) {
	m := small(t)
	m.topo.Services = m.topo.Services[:1]
	m.settle()
	sl := m.slices[ServiceName(unit("shop", "db"))+"-v4-1"]
	if sl == nil {
		t.Fatalf("slices: %v", slices.Collect(maps.Keys(m.slices)))
	}
	e := sl.Endpoints[1]
	if e.Addresses[0] != "10.0.2.1" || *e.NodeName != "n2" || *e.Zone != "z1" || e.Hints.ForNodes[0].Name != "n2" || e.Hints.ForZones[0].Name != "z1" || !*e.Conditions.Ready {
		t.Errorf("endpoint is %+v", e)
	}
	if sl.Labels[discoveryv1.LabelManagedBy] != "tulle-controller" || *sl.Ports[0].Name != "tcp-5432" || *sl.Ports[0].Port != m.observe().Units[unit("shop", "db")].TargetPorts[PortKey{5432, false}] {
		t.Errorf("slice is %+v", sl)
	}
}

func TestLocalFirstHop(t *testing.T) {
	m := small(t)
	m.settle()
	m.cfg.Local = true
	m.settle()
	for _, s := range m.services {
		if *s.Spec.InternalTrafficPolicy != corev1.ServiceInternalTrafficPolicyLocal || s.Spec.TrafficDistribution != nil {
			t.Errorf("%s: %+v", s.Name, s.Spec)
		}
	}
}

func TestBackendsAndServicesWithoutPortsHaveNoAddress(t *testing.T) {
	m := small(t)
	m.topo.Services[0].Backend = true
	m.topo.Services[1].Ports = nil
	m.settle()
	if len(m.services) != 1 || m.services[ServiceName(unit("shop", "web"))] == nil {
		t.Errorf("services: %v", slices.Collect(maps.Keys(m.services)))
	}
}

func TestPodsOfHeadlessServicesAreUnits(t *testing.T) {
	m := small(t)
	pod := svc("shop", "db", "tcp/5432")
	pod.Pod = "db-0"
	m.topo.Services = append(m.topo.Services, pod)
	m.settle()
	u := Unit{Name: pod.Name, Pod: "db-0"}
	if a, b := m.observe().Units[u], m.observe().Units[unit("shop", "db")]; len(a.Addresses) == 0 || a.Addresses[0] == b.Addresses[0] {
		t.Errorf("pod has %v, service has %v", a, b)
	}
	if got := m.services[ServiceName(u)].Annotations["tulle.dev/pod"]; got != "db-0" {
		t.Errorf("annotation is %q", got)
	}
}

func TestGoneServiceFreesItsAddress(t *testing.T) {
	m := small(t)
	m.settle()
	m.topo.Services = m.topo.Services[1:]
	if a, ok := m.observe().Units[unit("shop", "db")]; ok {
		t.Errorf("before the shadow is deleted: %v", a)
	}
	m.settle()
	if len(m.services) != 2 || len(m.slices) != 2 {
		t.Errorf("%d services, %d slices", len(m.services), len(m.slices))
	}
}

func TestManualChangesAreUndone(t *testing.T) {
	name := ServiceName(unit("shop", "web"))
	tests := map[string]func(m *model){
		"service deleted":     func(m *model) { delete(m.services, name) },
		"slice deleted":       func(m *model) { delete(m.slices, name+"-v4-1") },
		"both deleted":        func(m *model) { delete(m.services, name); delete(m.slices, name+"-v4-1") },
		"selector":            func(m *model) { m.services[name].Spec.Selector = map[string]string{"app": "evil"} },
		"external IPs":        func(m *model) { m.services[name].Spec.ExternalIPs = []string{"8.8.8.8"} },
		"type":                func(m *model) { m.services[name].Spec.Type = corev1.ServiceTypeNodePort },
		"affinity":            func(m *model) { m.services[name].Spec.SessionAffinity = corev1.ServiceAffinityClientIP },
		"policy":              func(m *model) { m.services[name].Spec.TrafficDistribution = nil },
		"port gone":           func(m *model) { m.services[name].Spec.Ports = m.services[name].Spec.Ports[:1] },
		"target port":         func(m *model) { m.services[name].Spec.Ports[0].TargetPort = intstr.FromInt32(15001) },
		"target port twice":   func(m *model) { p := m.services[name].Spec.Ports; p[1].TargetPort = p[0].TargetPort },
		"target port by name": func(m *model) { m.services[name].Spec.Ports[0].TargetPort = intstr.FromString("x") },
		"annotation":          func(m *model) { m.services[name].Annotations["tulle.dev/service"] = "other" },
		"annotation gone":     func(m *model) { delete(m.services[name].Annotations, "tulle.dev/service") },
		"foreign time":        func(m *model) { m.services[name].Annotations["tulle.dev/retire-at"] = "x" },
		"label":               func(m *model) { m.services[name].Labels["app.kubernetes.io/name"] = "x" },
		"endpoint added": func(m *model) {
			sl := m.slices[name+"-v4-1"]
			sl.Endpoints = append(sl.Endpoints, discoveryv1.Endpoint{Addresses: []string{"1.2.3.4"}})
		},
		"endpoint changed": func(m *model) { m.slices[name+"-v4-1"].Endpoints[0].Addresses = []string{"1.2.3.4"} },
		"hint gone":        func(m *model) { m.slices[name+"-v4-1"].Endpoints[0].Hints = nil },
		"slice port":       func(m *model) { *m.slices[name+"-v4-1"].Ports[0].Port = 1 },
		"second slice": func(m *model) {
			sl := m.slices[name+"-v4-1"].DeepCopy()
			sl.Name = "more"
			m.slices[sl.Name] = sl
		},
		"orphans": func(m *model) {
			s, sl := m.services[name].DeepCopy(), m.slices[name+"-v4-1"].DeepCopy()
			s.Name, sl.Name = "tulle-zzz", "tulle-zzz-v4-1"
			sl.Labels[discoveryv1.LabelServiceName] = "tulle-zzz"
			m.services[s.Name], m.slices[sl.Name] = s, sl
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			m := small(t)
			m.settle()
			before := m.observe()
			change(m)
			if c, _ := m.plan(); c.Empty() {
				t.Fatal("nothing to change")
			}
			m.settle()
			after := m.observe()
			if len(m.services) != 3 || len(m.slices) != 3 {
				t.Errorf("%d services, %d slices", len(m.services), len(m.slices))
			}
			for u, a := range after.Units {
				if name != "both deleted" && name != "service deleted" && !slices.Equal(a.Addresses, before.Units[u].Addresses) {
					t.Errorf("%v moved from %v to %v", u, before.Units[u].Addresses, a.Addresses)
				}
				if !strings.HasPrefix(name, "target") && !maps.Equal(a.TargetPorts, before.Units[u].TargetPorts) {
					t.Errorf("%v moved from %v to %v", u, before.Units[u].TargetPorts, a.TargetPorts)
				}
			}
			for _, s := range m.services {
				if s.Spec.Selector != nil || s.Spec.ExternalIPs != nil || s.Spec.Type != corev1.ServiceTypeClusterIP {
					t.Errorf("%s: %+v", s.Name, s.Spec)
				}
			}
		})
	}
}

func TestForeignFieldsAreLeftAlone(t *testing.T) {
	m := small(t)
	m.settle()
	for _, s := range m.services {
		s.Labels["team"], s.Annotations["note"] = "a", "b"
		single := corev1.IPFamilyPolicySingleStack
		s.Spec.IPFamilyPolicy = &single
	}
	if c, _ := m.plan(); !c.Empty() {
		t.Errorf("changes: %+v", c)
	}
	m.cfg.Local = true
	m.settle()
	for _, s := range m.services {
		if s.Labels["team"] != "a" || s.Annotations["note"] != "b" || *s.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
			t.Errorf("%s: %+v", s.Name, s)
		}
	}
}

func TestHintsThatTheClusterDropsAreNotWrittenAgain(t *testing.T) {
	m := small(t)
	m.settle()
	for _, sl := range m.slices {
		for i := range sl.Endpoints {
			sl.Endpoints[i].Hints.ForNodes = nil
		}
	}
	if c, _ := m.plan(); !c.Empty() {
		t.Errorf("%d changes", c.Len())
	}
}

func TestDualStack(t *testing.T) {
	m := small(t)
	for i := range m.proxies {
		m.proxies[i].Addresses = append(m.proxies[i].Addresses, netip.MustParseAddr("fd00::1").Next())
	}
	m.proxies = append(m.proxies, proxy("p3", "n3", "10.0.3.1"))
	m.settle()
	name := ServiceName(unit("shop", "web"))
	v4, v6 := m.slices[name+"-v4-1"], m.slices[name+"-v6-1"]
	if v4 == nil || v6 == nil || len(v4.Endpoints) != 3 || len(v6.Endpoints) != 2 || v6.AddressType != discoveryv1.AddressTypeIPv6 {
		t.Errorf("slices: %v and %v", v4, v6)
	}
}
