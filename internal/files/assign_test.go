package files

import (
	"net/netip"
	"testing"

	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/topology"
)

func unit(name string) shadow.Unit {
	return shadow.Unit{Name: topology.Name{Namespace: "shop", Name: name}}
}

func units(names ...string) topology.Topology {
	var t topology.Topology
	for _, n := range names {
		t.Services = append(t.Services, topology.Service{Name: topology.Name{Namespace: "shop", Name: n}, Ports: []topology.Port{
			{Number: 53, Protocol: topology.TCP}, {Number: 53, Protocol: topology.UDP}, {Number: 8080, Protocol: topology.HTTP},
		}})
	}
	return t
}

func TestAssign(t *testing.T) {
	names := []string{"a", "b", "c", "a-b"}
	all := Assign(units(names...), Loopback{FirstPort: 1024})
	seen := map[netip.Addr]bool{}
	for _, n := range names {
		a := all.Units[unit(n)]
		if len(a.Addresses) != 1 || a.Bind != a.Addresses[0] || !a.Bind.IsLoopback() || seen[a.Bind] {
			t.Errorf("%s: address %v, bound %v: want one of its own", n, a.Addresses, a.Bind)
		}
		seen[a.Bind] = true
		if p := a.TargetPorts[shadow.PortKey{Number: 8080}]; p != 8080 {
			t.Errorf("%s: port 8080 is served on %d", n, p)
		}
		tcp, udp := a.TargetPorts[shadow.PortKey{Number: 53}], a.TargetPorts[shadow.PortKey{Number: 53, UDP: true}]
		if tcp < 1024 || udp < 1024 {
			t.Errorf("%s: port 53 is served on %d and %d, which takes root", n, tcp, udp)
		}
		if alone := Assign(units(n), Loopback{FirstPort: 1024}).Units[unit(n)]; alone.Bind != a.Bind {
			t.Errorf("%s: address %v alone, %v with others", n, alone.Bind, a.Bind)
		}
	}
	if p := Assign(units("a"), Loopback{}).Units[unit("a")].TargetPorts[shadow.PortKey{Number: 53}]; p != 53 {
		t.Errorf("as root port 53 is served on %d", p)
	}
}

// A port that another program has is served on another one, and what is beside it stays where it was.
func TestAssignBusy(t *testing.T) {
	topo := units("a")
	before := Assign(topo, Loopback{}).Units[unit("a")]
	busy := map[Socket]bool{{netip.AddrPortFrom(before.Bind, 53), false}: true}
	seen := map[int32]bool{}
	for range 100 {
		after := Assign(topo, Loopback{Busy: busy}).Units[unit("a")]
		if after.Bind != before.Bind || after.TargetPorts[shadow.PortKey{Number: 53, UDP: true}] != 53 || after.TargetPorts[shadow.PortKey{Number: 8080}] != 8080 {
			t.Fatalf("%v became %v although TCP port 53 alone is busy", before, after)
		}
		p := after.TargetPorts[shadow.PortKey{Number: 53}]
		if p < 20000 || seen[p] {
			t.Fatalf("TCP port 53 is served on %d, which is busy, or not high", p)
		}
		seen[p] = true
		busy[Socket{netip.AddrPortFrom(before.Bind, uint16(p)), false}] = true
	}
}

// A service of a high number keeps it, whatever a low one beside it falls back to.
func TestAssignHighPorts(t *testing.T) {
	var topo topology.Topology
	s := topology.Service{Name: topology.Name{Namespace: "shop", Name: "all"}, Ports: []topology.Port{{Number: 80, Protocol: topology.HTTP}}}
	for n := range int32(10000) {
		s.Ports = append(s.Ports, topology.Port{Number: 20000 + n, Protocol: topology.TCP})
	}
	topo.Services = append(topo.Services, s)
	got := Assign(topo, Loopback{FirstPort: 1024}).Units[unit("all")].TargetPorts
	if p := got[shadow.PortKey{Number: 80}]; p < 30000 {
		t.Errorf("port 80 is served on %d, which is another port of the service", p)
	}
	if p := got[shadow.PortKey{Number: 25000}]; p != 25000 {
		t.Errorf("port 25000 is served on %d", p)
	}
}

func TestAssignOnOneAddress(t *testing.T) {
	all := Assign(units("a", "b", "c"), Loopback{FirstPort: 1024, OneAddress: true})
	seen := map[int32]bool{}
	for u, a := range all.Units {
		if a.Bind.String() != "127.0.0.1" {
			t.Errorf("%v binds %v", u, a.Bind)
		}
		for _, p := range a.TargetPorts {
			if seen[p] || p < 1024 {
				t.Errorf("%v: port %d is taken already", u, p)
			}
			seen[p] = true
		}
	}
}
