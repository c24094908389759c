package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/prometheus/client_golang/prometheus"
)

// Config says what a Server answers from and how.
type Config struct {
	View        View
	Nameserver  string        // see Plugin; default "tulle-dns.tulle-system"
	Pod         string        // see Plugin
	TTL         time.Duration // whole seconds; default 5 s
	NegativeTTL time.Duration // whole seconds; default 2 s
	// Registerer gets tulle_dns_responses_total; nil = none.
	Registerer prometheus.Registerer
	Asked      func() // called for every query; nil = not
}

// Server serves the mesh zones over UDP and TCP.
type Server struct {
	server *dnsserver.Server
	left   atomic.Bool
}

// New makes a Server.
func New(c Config) (*Server, error) {
	if c.TTL == 0 {
		c.TTL = 5 * time.Second
	}
	if c.NegativeTTL == 0 {
		c.NegativeTTL = 2 * time.Second
	}
	if c.Nameserver == "" {
		c.Nameserver = "tulle-dns.tulle-system"
	}
	chain := []plugin.Plugin{func(plugin.Handler) plugin.Handler {
		return &Plugin{View: c.View, Nameserver: c.Nameserver, Pod: c.Pod, TTL: c.TTL, NegativeTTL: c.NegativeTTL}
	}}
	if c.Registerer != nil {
		counter := prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tulle_dns_responses_total",
			Help: "Answers of the mesh DNS by query type (A, AAAA, SRV, other) and response code.",
		}, []string{"type", "rcode"})
		if err := c.Registerer.Register(counter); err != nil {
			return nil, fmt.Errorf("register DNS metrics: %w", err)
		}
		chain = append([]plugin.Plugin{func(next plugin.Handler) plugin.Handler { return count{next, counter} }}, chain...)
	}
	out := &Server{}
	chain = append([]plugin.Plugin{func(next plugin.Handler) plugin.Handler { return watched{next, c.Asked, &out.left} }}, chain...)
	// The zones change while the server runs, so it gets the root, and the plugin tells them apart.
	s, err := dnsserver.NewServer("dns://", []*dnsserver.Config{{Zone: ".", Transport: "dns", Plugin: chain}})
	if err != nil {
		return nil, fmt.Errorf("set up the DNS server: %w", err)
	}
	out.server = s
	return out, nil
}

// Leave is called when others serve instead: from now on a TCP connection ends with its next answer, so that who asks goes
// elsewhere. A cluster's DNS keeps a connection as long as it has questions.
func (s *Server) Leave() { s.left.Store(true) }

// Run serves on l and p, which it closes, until ctx is done; queries that have been read are answered before it
// returns. It may be called once.
func (s *Server) Run(ctx context.Context, l net.Listener, p net.PacketConn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var tcp, udp error
	wg.Go(func() { defer cancel(); tcp = s.server.Serve(l) })
	wg.Go(func() { defer cancel(); udp = s.server.ServePacket(p) })
	<-ctx.Done()
	err := s.server.Stop()
	// A server that Stop met before it had started ends here.
	l.Close()
	p.Close()
	wg.Wait()
	return errors.Join(err, unlessClosed("serve DNS over TCP", tcp), unlessClosed("serve DNS over UDP", udp))
}

func unlessClosed(what string, err error) error {
	if err == nil || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
