package tunnel

import (
	"errors"
	"maps"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/internal/identity"
)

// serverStats are what a Server counts.
type serverStats struct {
	handshakes, streams, links atomic.Int64

	mu      sync.Mutex
	failed  map[string]uint64 // handshakes, by reason
	refused map[Reason]uint64 // connections
}

func (s *serverStats) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed[why(err)]++
}

func (s *serverStats) refuse(r Reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused[r]++
}

// why is a failed handshake's reason, of a small set.
func why(err error) string {
	var peer *identity.PeerError
	switch {
	case errors.As(err, &peer):
		return string(peer.Reason)
	case strings.Contains(err.Error(), "client didn't provide a certificate"):
		return string(identity.NoCertificate)
	default:
		return "handshake"
	}
}

// Describe makes the Client a prometheus.Collector.
func (c *Client) Describe(descs chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, descs) }

// Collect makes the Client a prometheus.Collector.
func (c *Client) Collect(out chan<- prometheus.Metric) {
	c.mu.Lock()
	idle := 0
	for _, list := range c.idle {
		idle += len(list)
	}
	c.mu.Unlock()
	count := func(name, help string, n uint64) {
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, nil, nil), prometheus.CounterValue, float64(n))
	}
	count("tulle_proxy_tunnel_client_handshakes_total", "TLS connections that this proxy began to other nodes' proxies.", c.stats.handshakes.Load())
	count("tulle_proxy_tunnel_client_failures_total", "TLS connections to other nodes' proxies that could not be made.", c.stats.failed.Load())
	count("tulle_proxy_tunnel_client_connections_total", "Connections that this proxy tunnelled to other nodes.", c.stats.streams.Load())
	count("tulle_proxy_tunnel_client_reused_total", "Tunnelled connections that needed no TLS handshake of their own.", c.stats.reused.Load())
	out <- prometheus.MustNewConstMetric(prometheus.NewDesc("tulle_proxy_tunnel_client_idle",
		"TLS connections to other nodes' proxies that wait for their next use.", nil, nil), prometheus.GaugeValue, float64(idle))
}

// Describe makes the Server a prometheus.Collector.
func (s *Server) Describe(descs chan<- *prometheus.Desc) { prometheus.DescribeByCollect(s, descs) }

// Collect makes the Server a prometheus.Collector.
func (s *Server) Collect(out chan<- prometheus.Metric) {
	s.stats.mu.Lock()
	failed, refused := maps.Clone(s.stats.failed), maps.Clone(s.stats.refused)
	s.stats.mu.Unlock()
	one := func(name, help string, kind prometheus.ValueType, n float64) {
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, nil, nil), kind, n)
	}
	one("tulle_proxy_tunnel_server_handshakes_total", "TLS connections that other nodes' proxies began.", prometheus.CounterValue, float64(s.stats.handshakes.Load()))
	one("tulle_proxy_tunnel_server_connections_total", "Connections that came from other nodes through tunnels.", prometheus.CounterValue, float64(s.stats.streams.Load()))
	one("tulle_proxy_tunnel_server_open", "TLS connections from other nodes' proxies, in use or not.", prometheus.GaugeValue, float64(s.stats.links.Load()))
	many := func(name, help, reason string, n uint64) {
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, []string{"reason"}, nil), prometheus.CounterValue, float64(n), reason)
	}
	for reason, n := range failed {
		many("tulle_proxy_tunnel_server_failures_total", "TLS connections from other nodes that were refused, by reason.", reason, n)
	}
	for reason, n := range refused {
		many("tulle_proxy_tunnel_server_refused_total", "Tunnelled connections that were refused, by reason.", string(reason), n)
	}
}
