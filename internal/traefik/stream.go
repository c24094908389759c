package traefik

import (
	"net/netip"

	"github.com/traefik/traefik/v2/pkg/config/dynamic"

	"github.com/tulle-mesh/tulle/internal/topology"
)

func newTCP() *dynamic.TCPConfiguration {
	return &dynamic.TCPConfiguration{Routers: map[string]*dynamic.TCPRouter{}, Services: map[string]*dynamic.TCPService{}}
}

func newUDP() *dynamic.UDPConfiguration {
	return &dynamic.UDPConfiguration{Routers: map[string]*dynamic.UDPRouter{}, Services: map[string]*dynamic.UDPService{}}
}

// fallback is the route of a port that is for everything: the last one.
func (r *renderer) fallback(u *unit, p *topology.Port) []share {
	for _, route := range p.Routes {
		if len(route.Matches) == 0 {
			return r.shares(u, p, route)
		}
	}
	return nil
}

// tcpPort renders a TCP port. It has a router whatever becomes of the traffic: without one, Traefik would answer in HTTP.
func (r *renderer) tcpPort(u *unit, p *topology.Port, entryPoint string) {
	shares := r.fallback(u, p)
	name := u.portName(p)
	router := &dynamic.TCPRouter{EntryPoints: []string{entryPoint}, Rule: "HostSNI(`*`)"}
	r.tcp.Routers[name] = router
	switch {
	case len(shares) == 0 || r.closedStream(u, p, shares):
		router.Service = "nowhere"
		r.tcp.Services["nowhere"] = &dynamic.TCPService{LoadBalancer: tcpLoadBalancer(nil)}
	case len(shares) == 1:
		router.Service = r.tcpService(shares[0])
	default:
		weighted := &dynamic.TCPWeightedRoundRobin{}
		for _, sh := range shares {
			weight := int(sh.weight)
			weighted.Services = append(weighted.Services, dynamic.TCPWRRService{Name: r.tcpService(sh), Weight: &weight})
		}
		router.Service = name + "-split"
		r.tcp.Services[router.Service] = &dynamic.TCPService{Weighted: weighted}
	}
}

func (r *renderer) tcpService(s share) string {
	name := s.name()
	r.tcp.Services[name] = &dynamic.TCPService{LoadBalancer: tcpLoadBalancer(s.endpoints())}
	return name
}

// tcpLoadBalancer without servers closes connections. One half of a connection may be closed long before the other: no
// time limit on that, as by the mesh's own proxy.
func tcpLoadBalancer(endpoints []topology.Endpoint) *dynamic.TCPServersLoadBalancer {
	delay := -1
	lb := &dynamic.TCPServersLoadBalancer{TerminationDelay: &delay}
	for _, e := range endpoints {
		lb.Servers = append(lb.Servers, dynamic.TCPServer{Address: addressOf(e)})
	}
	return lb
}

// udpPort renders a UDP port. What is to be dropped has no router.
func (r *renderer) udpPort(u *unit, p *topology.Port, entryPoint string) {
	shares := r.fallback(u, p)
	if len(shares) == 0 || r.closedStream(u, p, shares) {
		return
	}
	name := u.portName(p)
	router := &dynamic.UDPRouter{EntryPoints: []string{entryPoint}}
	if len(shares) == 1 {
		if len(shares[0].endpoints()) == 0 {
			return
		}
		router.Service = r.udpService(shares[0])
	} else {
		weighted := &dynamic.UDPWeightedRoundRobin{}
		for _, sh := range shares {
			weight := int(sh.weight)
			weighted.Services = append(weighted.Services, dynamic.UDPWRRService{Name: r.udpService(sh), Weight: &weight})
		}
		router.Service = name + "-split"
		r.udp.Services[router.Service] = &dynamic.UDPService{Weighted: weighted}
	}
	r.udp.Routers[name] = router
}

// discard is where datagrams go whose backend has no endpoint: to a port of Traefik's own loopback where nobody listens.
// A load balancer without servers can't be written down for UDP, and to leave the backend out would give its share to
// the others.
const discard = "127.0.0.1:9"

func (r *renderer) udpService(s share) string {
	name := s.name()
	lb := &dynamic.UDPServersLoadBalancer{}
	for _, e := range s.endpoints() {
		lb.Servers = append(lb.Servers, dynamic.UDPServer{Address: addressOf(e)})
	}
	if len(lb.Servers) == 0 {
		lb.Servers = []dynamic.UDPServer{{Address: discard}}
	}
	r.udp.Services[name] = &dynamic.UDPService{LoadBalancer: lb}
	return name
}

func (s share) name() string {
	if s.unit == nil || s.port == nil {
		return "nowhere"
	}
	return s.unit.portName(s.port)
}

func addressOf(e topology.Endpoint) string {
	return netip.AddrPortFrom(e.Address, uint16(e.Port)).String()
}
