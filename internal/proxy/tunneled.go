package proxy

import (
	"context"
	"net"
	"net/netip"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/proxy/policy"
	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/tcp"
	"github.com/tulle-mesh/tulle/internal/proxy/tunnel"
	"github.com/tulle-mesh/tulle/internal/proxy/udp"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// newsWait is how long a destination that isn't known here may be on its way: proxies hear of a new pod at about the same
// time, not in an order.
const newsWait = time.Second

// CheckTunnel says why a destination that another node's proxy asks for is none of this node's: it must be a pod here,
// by its address and its name, and behind the port of a Service as the caller says. What is known of the pod and of the
// Service must agree on who the pod is, as that decides whose policy it is.
func (p *Proxy) CheckTunnel(d tunnel.Destination) tunnel.Reason {
	enough := time.NewTimer(newsWait)
	defer enough.Stop()
	for {
		s := p.now.Load()
		reason := s.check(d)
		if reason == "" {
			return ""
		}
		select {
		case <-s.changed:
		case <-enough.C:
			return reason
		}
	}
}

func (s *state) check(d tunnel.Destination) tunnel.Reason {
	pod := s.table.Callers[d.Address.Addr()]
	switch {
	case pod == nil:
		return tunnel.NotHere
	case pod.Namespace+"/"+pod.Pod != d.Pod:
		return tunnel.NotExposed // somebody else has the address
	}
	for _, port := range s.endpoints[d.Service].GetPorts() {
		if port.GetPort() == uint32(d.Port) && port.GetUdp() == d.UDP && exposes(port, pod, d.Address) {
			return ""
		}
	}
	return tunnel.NotExposed
}

func exposes(port *configv1.EndpointPort, pod *route.Caller, at netip.AddrPort) bool {
	address, workload := at.Addr().String(), workloadOf(pod)
	for _, e := range port.GetEndpoints() {
		if e.GetPort() == uint32(at.Port()) && e.GetAddress() == address && e.GetPod() == pod.Pod && e.GetWorkload() == workload {
			return true
		}
	}
	return false
}

// workloadOf is who a pod of this node is, as endpoints have it.
func workloadOf(pod *route.Caller) string { return pod.Namespace + "/" + pod.ServiceAccount }

// ServeTunnel serves what CheckTunnel has let pass, as far as the caller may call it: connections and flows are judged
// here, requests one by one by those who read them.
func (p *Proxy) ServeTunnel(s *tunnel.Stream) {
	d := s.Destination()
	e := p.find(d)
	if e == nil {
		_ = s.Refuse(tunnel.NotExposed) // who can't be told has gone, as below
		return
	}
	u := upstream.Use{
		Service: d.Service, Port: uint32(d.Port), HTTP: d.HTTP, Scheme: schemeOf(d.Scheme),
		EncodedSlash: d.EncodedSlash && takesEncodedSlash(p.now.Load().table, d),
	}
	p.Used()
	t := &route.Tunnelled{Caller: callerOf(s), Valid: s.Valid, Share: p.strangers, Used: p.Used}
	if t.Caller != nil {
		t.Share = p.share.Account(t.Caller.Namespace)
	}
	switch {
	case d.UDP:
		t.Port = route.To(e, u, configv1.Protocol_PROTOCOL_UDP)
		p.serveDatagrams(s, e, t)
	case d.HTTP:
		t.Port = route.To(e, u, configv1.Protocol_PROTOCOL_HTTP)
		p.serveRequests(s, e, t)
	default:
		t.Port = route.To(e, u, configv1.Protocol_PROTOCOL_TCP)
		p.serveConnection(s, e, t)
	}
}

// find returns the endpoint that CheckTunnel has found; nil if it is gone.
func (p *Proxy) find(d tunnel.Destination) *upstream.Endpoint {
	pod := p.now.Load().table.Callers[d.Address.Addr()]
	if pod == nil {
		return nil
	}
	return p.set.Find(upstream.Key{Service: d.Service, Port: uint32(d.Port), UDP: d.UDP}, d.Address, workloadOf(pod))
}

// callerOf is who proved to call; nil if that is nobody.
func callerOf(s *tunnel.Stream) *route.Caller {
	namespace, account, ok := identity.SplitAccount(s.Caller)
	if !ok {
		return nil
	}
	return &route.Caller{Namespace: namespace, ServiceAccount: account}
}

func schemeOf(text string) configv1.Scheme {
	for s, t := range schemes {
		if t == text {
			return s
		}
	}
	return configv1.Scheme_SCHEME_HTTP
}

// takesEncodedSlash says whether a Service that leads to the destination takes paths with %2F as they are.
func takesEncodedSlash(t *route.Table, d tunnel.Destination) bool {
	for _, s := range t.Services {
		if port := s.Port(uint32(d.Port), false); port != nil && port.EncodedSlash && port.LeadsTo(d.Service) {
			return true
		}
	}
	return false
}

func callOf(s *tunnel.Stream, e *upstream.Endpoint, t *route.Tunnelled) policy.Call {
	peer := policy.Peer{Tunnel: t}
	if a, err := netip.ParseAddrPort(s.RemoteAddr().String()); err == nil {
		peer.Address = a.Addr().Unmap()
	}
	return policy.Call{Peer: peer, Port: t.Port, Endpoint: e}
}

// serveRequests hands the connection to those who read HTTP. A pod that takes no connection is found out before, so that
// the caller's proxy may try another one.
func (p *Proxy) serveRequests(s *tunnel.Stream, e *upstream.Endpoint, t *route.Tunnelled) {
	if w := e.Direct(); t.Port.Routes[0].Backends[0].Scheme == configv1.Scheme_SCHEME_HTTP {
		c := w.Take(upstream.HTTP1, "")
		if c == nil {
			var err error
			if c, err = w.Open(context.Background(), upstream.HTTP1, "", nil); err != nil {
				_ = s.Refuse(tunnel.ConnectFailed)
				return
			}
		}
		w.Keep(c)
	}
	if s.Accept() != nil {
		return
	}
	p.http1.Serve(s, &route.Binding{Tunnel: t}, nil) // the caller's proxy counts it
	<-s.Done()
}

// serveConnection carries a TCP connection.
func (p *Proxy) serveConnection(s *tunnel.Stream, e *upstream.Endpoint, t *route.Tunnelled) {
	call := callOf(s, e, t)
	if v := p.gate.Judge(context.Background(), call); !v.Allow {
		p.denyTunnel(s, "tcp", t.Port, refusal.Reason(v.Reason))
		return
	}
	e.Begin()
	defer e.End()
	pod, err := e.Direct().Dial(context.Background())
	if err != nil {
		_ = s.Refuse(tunnel.ConnectFailed)
		return
	}
	up := pod.(*net.TCPConn)
	if s.Accept() != nil {
		up.Close()
		return
	}
	cut := func() { s.Reset(); tcp.Reset(up) }
	unwatch, ok := p.gate.Watch(call, cut)
	if !ok {
		cut()
		return
	}
	defer unwatch()
	none := func(float64) {}
	tcp.Pipe{Client: s, Upstream: up, Idle: t.Port.IdleTimeout, In: none, Out: none}.Run()
}

// serveDatagrams carries the flows of one caller to one endpoint: what is decided on one goes for all.
func (p *Proxy) serveDatagrams(s *tunnel.Stream, e *upstream.Endpoint, t *route.Tunnelled) {
	call := callOf(s, e, t)
	if v := p.gate.Judge(context.Background(), call); !v.Allow {
		p.denyTunnel(s, "udp", t.Port, refusal.Reason(v.Reason))
		return
	}
	e.Begin()
	defer e.End()
	if s.Accept() != nil {
		return
	}
	unwatch, ok := p.gate.Watch(call, s.Reset)
	if !ok {
		s.Reset()
		return
	}
	defer unwatch()
	d := udp.Demux{Conn: s, Dial: e.Direct().Dial, Max: maxTunnelledFlows}
	d.Run(context.Background())
}

// maxTunnelledFlows is how many flows of one caller to one endpoint are served at a time.
const maxTunnelledFlows = 8192

func (p *Proxy) denyTunnel(s *tunnel.Stream, protocol string, port *route.Port, r refusal.Reason) {
	p.meter.Refused(protocol, port.Service.Namespace, port.Service.Short, r)
	_ = s.Refuse(tunnel.Reason(r))
}
