package dns

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/miekg/dns"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

// found is what the View knows of a name: what its queries are answered from.
type found struct {
	addresses []netip.Addr
	ports     []port
}

type port struct {
	name   string
	number uint16
	udp    bool
}

func (p port) is(n name) bool { return p.name == n.port && p.udp == (n.proto == "udp") }

// lookup asks the view. ok says that the name exists; it may still have no addresses.
func lookup(v View, n name, bypass bool) (f found, ok bool) {
	s, open := v.Service(n.namespace, n.service, n.pod)
	if s == nil {
		return found{}, false
	}
	if n.port != "" && !slices.ContainsFunc(ports(s), func(p port) bool { return p.is(n) }) {
		return found{}, false
	}
	switch {
	case bypass && len(s.GetPlainAddresses()) > 0:
		f = found{addresses: parseAll(s.GetPlainAddresses()), ports: ports(s)}
	case bypass:
		f = headless(s, v.Endpoints(n.namespace, n.service))
	case open:
		f = found{addresses: parseAll(s.GetAddresses()), ports: ports(s)}
	}
	return f, true
}

func ports(s *configv1.Service) []port {
	var all []port
	for _, p := range s.GetPorts() {
		all = append(all, port{name: p.GetName(), number: uint16(p.GetPort()), udp: p.GetProtocol() == configv1.Protocol_PROTOCOL_UDP})
	}
	return all
}

// headless is what a headless service's plain names stand for: its endpoints' addresses, and the port numbers there.
func headless(s *configv1.Service, endpoints *configv1.Endpoints) found {
	var f found
	for _, p := range ports(s) {
		for _, e := range endpoints.GetPorts() {
			if uint16(e.GetPort()) != p.number || e.GetUdp() != p.udp {
				continue
			}
			for _, one := range e.GetEndpoints() {
				if one.GetDraining() || s.GetPod() != "" && one.GetPod() != s.GetPod() {
					continue
				}
				f.addresses = append(f.addresses, parseAll([]string{one.GetAddress()})...)
				f.ports = append(f.ports, port{name: p.name, number: uint16(one.GetPort()), udp: p.udp})
			}
		}
	}
	slices.SortFunc(f.addresses, netip.Addr.Compare)
	f.addresses = slices.Compact(f.addresses)
	slices.SortFunc(f.ports, func(a, b port) int { return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.number, b.number)) })
	f.ports = slices.Compact(f.ports)
	return f
}

func parseAll(literals []string) []netip.Addr {
	var all []netip.Addr
	for _, s := range literals {
		if a, err := netip.ParseAddr(s); err == nil {
			all = append(all, a.Unmap())
		}
	}
	return all
}

// addressRecords are the records of the wanted type, or of both if it is TypeNone.
func addressRecords(owner string, addresses []netip.Addr, qtype uint16, ttl uint32) []dns.RR {
	var rrs []dns.RR
	for _, a := range addresses {
		switch {
		case a.Is4() && (qtype == dns.TypeA || qtype == dns.TypeNone):
			rrs = append(rrs, &dns.A{Hdr: header(owner, dns.TypeA, ttl), A: a.AsSlice()})
		case a.Is6() && (qtype == dns.TypeAAAA || qtype == dns.TypeNone):
			rrs = append(rrs, &dns.AAAA{Hdr: header(owner, dns.TypeAAAA, ttl), AAAA: a.AsSlice()})
		}
	}
	return rrs
}

// serviceRecords are the SRV records of the ports that n asks for: one, or all if it names none.
func serviceRecords(owner, target string, n name, all []port, ttl uint32) []dns.RR {
	var rrs []dns.RR
	for _, p := range all {
		if n.port == "" || p.is(n) {
			rrs = append(rrs, &dns.SRV{Hdr: header(owner, dns.TypeSRV, ttl), Weight: 100, Port: p.number, Target: target})
		}
	}
	return rrs
}

func header(owner string, rrtype uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: owner, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}
