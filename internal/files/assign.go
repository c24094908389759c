package files

import (
	"hash/fnv"
	"net/netip"

	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// Loopback says what this machine's loopback allows.
type Loopback struct {
	FirstPort  int32           // the lowest port that may be bound (ip_unprivileged_port_start); 0 or 1 = all
	OneAddress bool            // only 127.0.0.1 exists (macOS)
	Busy       map[Socket]bool // what other programs have; may be nil
}

// Socket is where a port is served.
type Socket struct {
	netip.AddrPort
	UDP bool
}

// Assign gives every service unit an address of its own in 127.0.0.0/8 on which its own ports are served, or, where
// the loopback doesn't allow that, high ports. It depends on the units' names and on what is busy only: an address stays
// while the files change, unless two names' hashes collide.
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
	// Own ports first: a high port must not be one of them.
	for _, p := range ports {
		if s := socketOf(addr, p.Number, p.Protocol == topology.UDP); a.mayBind(s) {
			a.ports[s.AddrPort] = true
			out.TargetPorts[keyOf(p)] = p.Number
		}
	}
	for _, p := range ports {
		if _, own := out.TargetPorts[keyOf(p)]; !own {
			out.TargetPorts[keyOf(p)] = a.highPort(addr, u, p)
		}
	}
	return out
}

func keyOf(p topology.Port) shadow.PortKey {
	return shadow.PortKey{Number: p.Number, UDP: p.Protocol == topology.UDP}
}

func socketOf(addr netip.Addr, port int32, udp bool) Socket {
	return Socket{AddrPort: netip.AddrPortFrom(addr, uint16(port)), UDP: udp}
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

func (a *assigner) mayBind(s Socket) bool {
	return !a.loopback.OneAddress && int32(s.Port()) >= a.loopback.FirstPort && !a.loopback.Busy[s]
}

// highPort is one of 20000-29999, or of the ports after them when those are taken.
func (a *assigner) highPort(addr netip.Addr, u shadow.Unit, p topology.Port) int32 {
	const first, count = 20000, 10000
	start := (hash(u) + uint32(p.Number)) % count
	for i := range uint32(65536 - first) {
		n := i
		if i < count {
			n = (start + i) % count
		}
		s := socketOf(addr, int32(first+n), p.Protocol == topology.UDP)
		if !a.ports[s.AddrPort] && !a.loopback.Busy[s] {
			a.ports[s.AddrPort] = true
			return int32(s.Port())
		}
	}
	return p.Number // which fails, and says so
}
