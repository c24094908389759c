package files

import (
	"hash/fnv"
	"net/netip"

	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// Loopback says what this machine's loopback allows.
type Loopback struct {
	FirstPort  int32 // the lowest port that may be bound (ip_unprivileged_port_start); 0 or 1 = all
	OneAddress bool  // only 127.0.0.1 exists (macOS)
}

// Assign gives every service unit an address of its own in 127.0.0.0/8 on which its own ports are served, or, where
// the loopback doesn't allow that, high ports. It depends on the units' names only: an address stays while the files
// change, unless two names' hashes collide.
func Assign(t topology.Topology, l Loopback) shadow.Assigned {
	a := assigner{loopback: l, taken: map[netip.Addr]bool{netip.AddrFrom4([4]byte{127, 0, 0, 1}): true}, ports: map[netip.AddrPort]bool{}}
	for _, s := range t.Services {
		for _, p := range s.Ports {
			for _, e := range p.Endpoints {
				a.taken[e.Address] = true
				a.ports[netip.AddrPortFrom(e.Address, uint16(e.Port))] = true
			}
		}
	}
	for _, c := range t.Callers {
		for _, addr := range c.Addresses {
			a.taken[addr] = true
		}
	}
	out := shadow.Assigned{Units: map[shadow.Unit]shadow.Assignment{}}
	for _, s := range t.Services {
		if !s.Backend {
			u := shadow.Unit{Name: s.Name, Pod: s.Pod}
			out.Units[u] = a.assign(u, s.Ports)
		}
	}
	return out
}

type assigner struct {
	loopback Loopback
	taken    map[netip.Addr]bool
	ports    map[netip.AddrPort]bool // of TCP and UDP alike: a high port need not be shared
}

func (a *assigner) assign(u shadow.Unit, ports []topology.Port) shadow.Assignment {
	addr := a.address(u)
	out := shadow.Assignment{Unit: u, Addresses: []netip.Addr{addr}, Bind: addr, TargetPorts: map[shadow.PortKey]int32{}}
	for _, p := range ports {
		key := shadow.PortKey{Number: p.Number, UDP: p.Protocol == topology.UDP}
		out.TargetPorts[key] = a.port(addr, u, p.Number)
	}
	return out
}

func hash(u shadow.Unit) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(u.Namespace + "\x00" + u.Name.Name + "\x00" + u.Pod))
	return h.Sum32()
}

// address is in 127.64.0.0/10, which nothing else is known to use.
func (a *assigner) address(u shadow.Unit) netip.Addr {
	if a.loopback.OneAddress {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	for n := hash(u); ; n++ {
		addr := netip.AddrFrom4([4]byte{127, byte(64 + n>>16&63), byte(n >> 8), byte(n)})
		if last := byte(n); last != 0 && last != 255 && !a.taken[addr] {
			a.taken[addr] = true
			return addr
		}
	}
}

// port is the service's own where that can be bound, else one of 20000-29999.
func (a *assigner) port(addr netip.Addr, u shadow.Unit, number int32) int32 {
	own := netip.AddrPortFrom(addr, uint16(number))
	if !a.loopback.OneAddress && number >= a.loopback.FirstPort {
		a.ports[own] = true
		return number
	}
	for n := hash(u) + uint32(number); ; n++ {
		high := netip.AddrPortFrom(addr, uint16(20000+n%10000))
		if !a.ports[high] {
			a.ports[high] = true
			return int32(high.Port())
		}
	}
}
