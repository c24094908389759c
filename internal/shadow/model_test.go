package shadow

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// model is a small API server: it has the mesh's namespace, gives addresses and refuses what the real one refuses.
type model struct {
	t        *testing.T
	cfg      Config
	topo     topology.Topology
	proxies  []Proxy
	busy     map[PortKey]bool
	services map[string]*corev1.Service
	slices   map[string]*discoveryv1.EndpointSlice
	serial   int
	writes   int
	pods     map[string]string // that ever were, by address
}

func newModel(t *testing.T) *model {
	t.Helper()
	return &model{
		t: t, cfg: Config{Namespace: "tulle-system", Now: time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC), Settle: 10 * time.Second, Overlap: time.Minute},
		services: map[string]*corev1.Service{}, slices: map[string]*discoveryv1.EndpointSlice{}, busy: map[PortKey]bool{}, pods: map[string]string{},
	}
}

func (m *model) state() State {
	return State{
		Services: slices.SortedFunc(maps.Values(m.services), func(a, b *corev1.Service) int { return cmp.Compare(a.Name, b.Name) }),
		Slices:   slices.SortedFunc(maps.Values(m.slices), func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(a.Name, b.Name) }),
	}
}

func (m *model) plan() (Changes, []problem.Problem) {
	return Plan(m.cfg, m.topo, m.state(), m.proxies, m.busy)
}

func (m *model) observe() Assigned { return Observe(m.topo, m.state()) }

// step plans once and applies the changes.
func (m *model) step() []problem.Problem {
	m.t.Helper()
	for _, p := range m.proxies {
		m.pods[p.Addresses[0].String()] = p.Pod
	}
	c, problems := m.plan()
	m.writes += c.Len()
	for _, s := range c.CreateServices {
		m.create(s)
	}
	for _, s := range c.UpdateServices {
		m.update(s)
	}
	for _, s := range c.CreateSlices {
		if m.slices[s.Name] != nil {
			m.t.Fatalf("slice %s is created twice", s.Name)
		}
		m.slice(s)
	}
	for _, s := range c.UpdateSlices {
		if m.slices[s.Name] == nil {
			m.t.Fatalf("slice %s is updated and is not there", s.Name)
		}
		m.slice(s)
	}
	for _, s := range c.DeleteSlices {
		delete(m.slices, s.Name)
	}
	for _, s := range c.DeleteServices {
		delete(m.services, s.Name)
	}
	return problems
}

// settle applies plans until nothing is left to write.
func (m *model) settle() []problem.Problem {
	m.t.Helper()
	for range 5 {
		problems := m.step()
		if c, _ := m.plan(); c.Empty() {
			return problems
		}
	}
	c, _ := m.plan()
	m.t.Fatalf("no end of changes: %d left, e.g. %v", c.Len(), c)
	return nil
}

// pass lets time pass, plan by plan.
func (m *model) pass(d time.Duration) {
	m.t.Helper()
	end := m.cfg.Now.Add(d)
	for {
		m.settle()
		c, _ := m.plan()
		if c.Next.IsZero() || c.Next.After(end) {
			break
		}
		if !c.Next.After(m.cfg.Now) {
			m.t.Fatalf("next plan at %v, which has passed", c.Next)
		}
		m.cfg.Now = c.Next
	}
	m.cfg.Now = end
	m.settle()
}

func (m *model) create(s *corev1.Service) {
	m.t.Helper()
	if m.services[s.Name] != nil {
		m.t.Fatalf("service %s is created twice", s.Name)
	}
	if s.Spec.ClusterIP != "" || len(s.Spec.ClusterIPs) > 0 {
		m.t.Fatalf("service %s is created with an address", s.Name)
	}
	m.serial++
	s = s.DeepCopy()
	s.CreationTimestamp = metav1.NewTime(m.cfg.Now.Add(time.Duration(m.serial) * time.Second))
	s.Spec.ClusterIPs = []string{fmt.Sprintf("10.96.%d.%d", m.serial/250, m.serial%250+1)}
	s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	m.check(s)
	m.services[s.Name] = s
}

func (m *model) update(s *corev1.Service) {
	m.t.Helper()
	old := m.services[s.Name]
	if old == nil || !slices.Equal(old.Spec.ClusterIPs, s.Spec.ClusterIPs) || old.Spec.ClusterIP != s.Spec.ClusterIP {
		m.t.Fatalf("service %s: an update of %v to %v", s.Name, old, s)
	}
	s = s.DeepCopy()
	m.check(s)
	m.services[s.Name] = s
}

func (m *model) check(s *corev1.Service) {
	m.t.Helper()
	if len(s.Name) > 63 || len(s.Spec.Ports) == 0 {
		m.t.Fatalf("service %q has %d ports", s.Name, len(s.Spec.Ports))
	}
	names := map[string]bool{}
	for _, p := range s.Spec.Ports {
		if names[p.Name] || len(p.Name) > 63 || p.TargetPort.IntVal == 0 {
			m.t.Fatalf("service %s has the port %+v", s.Name, p)
		}
		names[p.Name] = true
	}
}

func (m *model) slice(s *discoveryv1.EndpointSlice) {
	m.t.Helper()
	if len(s.Endpoints) == 0 || len(s.Endpoints) > 1000 {
		m.t.Fatalf("slice %s has %d endpoints", s.Name, len(s.Endpoints))
	}
	for _, e := range s.Endpoints {
		if a := netip.MustParseAddr(e.Addresses[0]); a.Is4() != (s.AddressType == discoveryv1.AddressTypeIPv4) {
			m.t.Fatalf("slice %s of %s has the endpoint %s", s.Name, s.AddressType, a)
		}
	}
	m.slices[s.Name] = s.DeepCopy()
}

// leadsTo returns the pods that a shadow Service leads to.
func (m *model) leadsTo(service string) []string {
	var out []string
	for _, s := range m.slices {
		if s.Labels[discoveryv1.LabelServiceName] == service {
			for _, e := range s.Endpoints {
				out = append(out, m.pods[e.Addresses[0]])
			}
		}
	}
	slices.Sort(out)
	return out
}

// svc makes a service of ports like "80", "tcp/5432" or "udp/53".
func svc(namespace, name string, ports ...string) topology.Service {
	s := topology.Service{Name: topology.Name{Namespace: namespace, Name: name}}
	for _, p := range ports {
		port := topology.Port{Protocol: topology.HTTP}
		if n, err := fmt.Sscanf(p, "%d", &port.Number); n == 0 || err != nil {
			port.Protocol = topology.Protocol(p[:3])
			_, _ = fmt.Sscanf(p[4:], "%d", &port.Number)
		}
		s.Ports = append(s.Ports, port)
	}
	return s
}

func unit(namespace, name string) Unit {
	return Unit{Name: topology.Name{Namespace: namespace, Name: name}}
}

func proxy(pod, node, ip string) Proxy {
	return Proxy{Pod: pod, UID: "uid-" + pod, Node: node, Zone: "z1", Addresses: []netip.Addr{netip.MustParseAddr(ip)}, Ready: true}
}
