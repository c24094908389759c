package shadow

import (
	"fmt"
	"maps"
	"testing"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/topology"
)

func TestTargetPortsAreInTheRangesAndUnique(t *testing.T) {
	b := newBook(map[PortKey]bool{{1024, false}: true}, Range{})
	for i := range 35279 {
		port, ok := b.assign(fmt.Sprint("tulle-", i), PortKey{Number: 80})
		switch {
		case !ok:
			t.Fatalf("none left after %d", i)
		case port < 1025, port > 14999 && port < 16000, port > 32767 && port < 61000, port > 65535:
			t.Fatalf("got %d", port)
		}
	}
	if port, ok := b.assign("more", PortKey{Number: 80}); ok {
		t.Errorf("one too many: %d", port)
	}
	if _, ok := b.assign("more", PortKey{Number: 80, UDP: true}); !ok {
		t.Error("UDP is not counted apart")
	}
	if len(b.taken) != 35280 {
		t.Errorf("%d are taken", len(b.taken))
	}
}

func TestExhaustionIsAProblemOfTheService(t *testing.T) {
	m := newModel(t)
	for n := int32(1); n <= 65535; n++ {
		m.busy[PortKey{Number: n}] = true
	}
	delete(m.busy, PortKey{Number: 2000})
	m.topo.Services = []topology.Service{svc("shop", "a", "80"), svc("shop", "b", "80", "udp/53"), svc("shop", "c", "80")}
	problems := m.settle()
	if len(problems) != 2 || problems[0].Reason != problem.NoTargetPort || problems[0].Object.Name != "b" || problems[1].Object.Name != "c" {
		t.Errorf("problems: %v", problems)
	}
	units := m.observe().Units
	if units[unit("shop", "a")].TargetPorts[PortKey{Number: 80}] != 2000 {
		t.Errorf("a got %v", units[unit("shop", "a")])
	}
	if b := units[unit("shop", "b")].TargetPorts; len(b) != 1 || b[PortKey{53, true}] == 0 {
		t.Errorf("b got %v", b)
	}
	if len(m.services) != 2 {
		t.Errorf("%d services", len(m.services))
	}
}

func TestBusyPortIsAnotherPort(t *testing.T) {
	m := small(t)
	m.settle()
	before := m.observe()
	key := PortKey{Number: 5432}
	target := before.Units[unit("shop", "db")].TargetPorts[key]
	m.busy[PortKey{Number: target}] = true
	m.settle()
	after := m.observe()
	if got := after.Units[unit("shop", "db")].TargetPorts[key]; got == target || got == 0 {
		t.Errorf("port is %d, was %d", got, target)
	}
	if got := *m.slices[ServiceName(unit("shop", "db"))+"-v4-1"].Ports[0].Port; got != after.Units[unit("shop", "db")].TargetPorts[key] {
		t.Errorf("slices lead to %d", got)
	}
	for _, name := range []string{"dns", "web"} {
		if u := unit("shop", name); !maps.Equal(before.Units[u].TargetPorts, after.Units[u].TargetPorts) {
			t.Errorf("%v moved", u)
		}
	}
	delete(m.busy, PortKey{Number: target})
	if c, _ := m.plan(); !c.Empty() {
		t.Error("moves back when the port is free again")
	}
}

func TestBusyIsByProtocol(t *testing.T) {
	m := small(t)
	m.settle()
	target := m.observe().Units[unit("shop", "db")].TargetPorts[PortKey{Number: 5432}]
	m.busy[PortKey{Number: target, UDP: true}] = true
	if c, _ := m.plan(); !c.Empty() {
		t.Error("a TCP port moved because the UDP port is busy")
	}
}

func TestTheOlderServiceKeepsAPortThatTwoHold(t *testing.T) {
	m := small(t)
	m.settle()
	db, web := m.services[ServiceName(unit("shop", "db"))], m.services[ServiceName(unit("shop", "web"))]
	older, newer := db, web
	if newer.CreationTimestamp.Before(&older.CreationTimestamp) {
		older, newer = newer, older
	}
	target := older.Spec.Ports[0].TargetPort
	newer.Spec.Ports[0].TargetPort = target
	owners := 0
	for _, a := range m.observe().Units {
		for _, p := range a.TargetPorts {
			if p == target.IntVal {
				owners++
			}
		}
	}
	if owners != 1 {
		t.Errorf("%d units listen on port %d", owners, target.IntVal)
	}
	m.settle()
	if got := m.services[older.Name].Spec.Ports[0].TargetPort; got != target {
		t.Errorf("the older one moved to %v", got)
	}
}

func TestOrphansHoldTheirPortsUntilTheyAreGone(t *testing.T) {
	m := small(t)
	for n := int32(1); n <= 65535; n++ {
		m.busy[PortKey{Number: n}] = n != 2000
	}
	m.topo.Services = []topology.Service{svc("shop", "a", "80")}
	m.settle()
	m.topo.Services = []topology.Service{svc("shop", "b", "80")}
	m.step()
	if len(m.services) != 0 {
		t.Fatalf("b took a's port while a's address still led there: %v", m.services)
	}
	m.settle()
	if len(m.services) != 1 {
		t.Error("b has no address")
	}
}

func TestTargetPortsWithinARange(t *testing.T) {
	m := small(t)
	m.settle()
	m.cfg.TargetPorts = Range{20000, 20001}
	m.topo.Services = []topology.Service{svc("shop", "a", "80"), svc("shop", "b", "80", "udp/53"), svc("shop", "c", "80")}
	problems := m.settle()
	if len(problems) != 1 || problems[0].Reason != problem.NoTargetPort || problems[0].Message != "port 80 has no mesh address: all target ports of the range 20000-20001 are taken" {
		t.Errorf("problems: %v", problems)
	}
	seen := map[PortKey]bool{}
	for u, a := range m.observe().Units {
		for k, target := range a.TargetPorts {
			if key := (PortKey{target, k.UDP}); target < 20000 || target > 20001 || seen[key] {
				t.Errorf("%s has %v", u, a.TargetPorts)
			} else {
				seen[key] = true
			}
		}
	}
	if len(seen) != 3 {
		t.Errorf("%d ports are in use", len(seen))
	}
}

func TestOffline(t *testing.T) {
	topo := topology.Topology{Services: []topology.Service{
		svc("shop", "a", "80", "8080"), svc("shop", "b", "80"), svc("shop", "c", "tcp/90", "udp/53"), svc("shop", "d", "tcp/91"),
	}}
	a, problems := Offline(topo, Range{80, 81})
	if len(problems) != 1 || problems[0].Object.Name != "d" {
		t.Errorf("problems: %v", problems)
	}
	if len(a.Shared) != 2 || a.Shared[0] != (SharedPort{80, 80}) || a.Shared[1] != (SharedPort{8080, 8080}) {
		t.Errorf("shared: %v", a.Shared)
	}
	if got := a.Units[unit("shop", "c")].TargetPorts[PortKey{Number: 90}]; got != 81 {
		t.Errorf("c's TCP port is %d: 80 is taken by HTTP", got)
	}
	if again, _ := Offline(topo, Range{80, 81}); !again.Equal(a) {
		t.Error("the second time it is something else")
	}
}
