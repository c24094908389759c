package proxy

import (
	"cmp"
	"context"
	"net"
	"sync"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy/tcp"
	"github.com/tulle-mesh/tulle/internal/proxy/tunnel"
)

// CheckTunnel says why a destination that another node's proxy asks for is none of this node's: it must be a pod here,
// by its address and its name, and behind the port of a Service as the caller says.
func (p *Proxy) CheckTunnel(d tunnel.Destination) tunnel.Reason {
	s := p.now.Load()
	pod := s.table.Callers[d.Address.Addr()]
	if pod == nil || pod.Namespace+"/"+pod.Pod != d.Pod {
		return tunnel.NotHere
	}
	for _, port := range s.endpoints[d.Service].GetPorts() {
		if port.GetPort() == uint32(d.Port) && port.GetUdp() == d.UDP && exposes(port, d) {
			return ""
		}
	}
	return tunnel.NotExposed
}

func exposes(port *configv1.EndpointPort, d tunnel.Destination) bool {
	address := d.Address.Addr().String()
	for _, e := range port.GetEndpoints() {
		if e.GetPort() == uint32(d.Address.Port()) && e.GetAddress() == address {
			return true
		}
	}
	return false
}

// ServeTunnel carries what CheckTunnel has let pass to the pod, as it comes: nobody's access is judged yet.
func (p *Proxy) ServeTunnel(s *tunnel.Stream) {
	d := s.Destination()
	network := "tcp"
	if d.UDP {
		network = "udp"
	}
	dialer := net.Dialer{Timeout: cmp.Or(p.config.Upstream.ConnectTimeout, 3*time.Second)}
	pod, err := dialer.DialContext(context.Background(), network, d.Address.String())
	if err != nil {
		p.config.Log.Debug("tunnelled connect failed", "pod", d.Pod, "err", err)
		_ = s.Refuse(tunnel.ConnectFailed) // who can't be told has gone
		return
	}
	if s.Accept() != nil {
		pod.Close()
		return
	}
	if d.UDP {
		carryDatagrams(s, pod, cmp.Or(p.config.UDPIdle, 30*time.Second))
		return
	}
	none := func(float64) {}
	tcp.Pipe{
		Client: s, Upstream: pod.(*net.TCPConn), Idle: cmp.Or(p.config.TCPIdle, time.Hour), In: none, Out: none,
	}.Run()
}

// carryDatagrams carries a flow until it is idle or one side ends.
func carryDatagrams(a, b net.Conn, idle time.Duration) {
	var wg sync.WaitGroup
	copying := func(dst, src net.Conn) {
		defer dst.Close()
		buffer := make([]byte, 1<<16)
		for src.SetReadDeadline(time.Now().Add(idle)) == nil {
			n, err := src.Read(buffer)
			if err != nil {
				return
			}
			if _, err := dst.Write(buffer[:n]); err != nil {
				return
			}
		}
	}
	wg.Go(func() { copying(a, b) })
	copying(b, a)
	wg.Wait()
}
