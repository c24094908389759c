package push

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// counts are what a Server counts over its life.
type counts struct {
	denied, nacks, resources, removals atomic.Uint64
	published                          atomic.Int64 // when the config last changed, Unix nanoseconds
}

// metric is one of the Server's metrics, read when it is collected.
type metric struct {
	name, help string
	kind       prometheus.ValueType
	value      func() float64
}

// metrics reads the Server once and returns what it shows.
func (s *Server) metrics(now time.Time) []metric {
	var connected, current, refused int
	var waiting time.Duration
	for _, c := range s.Connections() {
		connected++
		refused += len(c.Refusals)
		if c.Acked == c.Version {
			current++
		}
		if !c.Waiting.IsZero() {
			waiting = max(waiting, now.Sub(c.Waiting))
		}
	}
	gauge, counter := prometheus.GaugeValue, prometheus.CounterValue
	is := func(n int) func() float64 { return func() float64 { return float64(n) } }
	return []metric{
		{"tulle_controller_connected_proxies", "Config streams of proxies to this replica.", gauge, is(connected)},
		{"tulle_controller_current_proxies", "Config streams whose proxy has confirmed the current config.", gauge, is(current)},
		{"tulle_controller_push_wait_seconds", "How long the slowest proxy has owed an answer.", gauge, waiting.Seconds},
		{"tulle_controller_refused_resources", "Resources that connected proxies refuse, over all of them.", gauge, is(refused)},
		{
			"tulle_controller_config_changed_timestamp_seconds", "When the config of the proxies last changed.", gauge,
			func() float64 { return float64(s.counts.published.Load()) / 1e9 },
		},
		{"tulle_controller_push_nacks_total", "Responses that a proxy refused in part or as a whole.", counter, of(&s.counts.nacks)},
		{"tulle_controller_push_denied_total", "Streams and requests that were refused.", counter, of(&s.counts.denied)},
		{"tulle_controller_push_resources_total", "Resources sent to proxies.", counter, of(&s.counts.resources)},
		{"tulle_controller_push_removals_total", "Removals sent to proxies.", counter, of(&s.counts.removals)},
	}
}

// Describe makes the Server a prometheus.Collector.
func (s *Server) Describe(descs chan<- *prometheus.Desc) { prometheus.DescribeByCollect(s, descs) }

// Collect makes the Server a prometheus.Collector.
func (s *Server) Collect(out chan<- prometheus.Metric) { collect(out, s.metrics(time.Now())) }

func of(n *atomic.Uint64) func() float64 { return func() float64 { return float64(n.Load()) } }

func collect(out chan<- prometheus.Metric, all []metric) {
	for _, m := range all {
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc(m.name, m.help, nil, nil), m.kind, m.value())
	}
}
