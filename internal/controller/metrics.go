package controller

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/internal/bypass"
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/status"
)

// Metrics are the Controller's.
type Metrics struct {
	rounds       *prometheus.CounterVec
	roundSeconds prometheus.Histogram
	writes       prometheus.Counter
	pending      prometheus.Gauge
	writeSeconds prometheus.Histogram
	writeErrors  prometheus.Counter
	problemCount *prometheus.GaugeVec
	services     prometheus.Gauge
	addresses    prometheus.Gauge
	proxies      *prometheus.GaugeVec
	leading      prometheus.Gauge
	workloads    *prometheus.GaugeVec
}

// NewMetrics makes the metrics and registers them; r may be nil.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		rounds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tulle_controller_rounds_total", Help: "Times that config was made of the cluster's objects, by result: ok or error.",
		}, []string{"result"}),
		roundSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tulle_controller_round_seconds", Help: "Time from a snapshot of the objects to published config.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
		}),
		writes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tulle_controller_writes_total", Help: "Writes of Services and EndpointSlices of mesh addresses.",
		}),
		pending: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tulle_controller_pending_writes", Help: "Writes that the last plan had to do.",
		}),
		writeSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tulle_controller_write_seconds", Help: "Time that a batch of writes for mesh addresses took.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
		writeErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tulle_controller_write_errors_total", Help: "Mesh addresses that could not be written, attempt by attempt.",
		}),
		problemCount: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "tulle_problems", Help: "Problems of the cluster's objects, by reason; see docs/problems.md. Only the leader knows them all.",
		}, []string{"reason"}),
		services: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tulle_controller_services", Help: "Services (and pods of headless ones) that want a mesh address.",
		}),
		addresses: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tulle_controller_addresses", Help: "Services (and pods of headless ones) that have a mesh address.",
		}),
		proxies: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "tulle_controller_proxy_pods", Help: "Proxy pods, by whether they are ready.",
		}, []string{"ready"}),
		leading: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tulle_controller_leader", Help: "1 on the replica that writes to the cluster.",
		}),
		workloads: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "tulle_protected_workloads", Help: "Enforced workloads, by whether they can be called past the mesh: Enforced, EnforcedExcept or Bypassable.",
		}, []string{"state"}),
	}
	if r != nil {
		r.MustRegister(m.rounds, m.roundSeconds, m.writes, m.pending, m.writeSeconds, m.writeErrors, m.problemCount, m.services, m.addresses, m.proxies, m.leading, m.workloads)
	}
	return m
}

func (m *Metrics) round(took time.Duration, err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	m.rounds.WithLabelValues(result).Inc()
	m.roundSeconds.Observe(took.Seconds())
}

func (m *Metrics) observe(r *round) {
	want, have, ready, not := 0, 0, 0, 0
	for _, s := range r.topology.Services {
		if !s.Backend {
			want++
		}
	}
	for _, a := range r.assigned.Units {
		if len(a.Addresses) > 0 {
			have++
		}
	}
	for _, p := range r.snapshot.Proxies {
		if p.Ready {
			ready++
		} else {
			not++
		}
	}
	m.services.Set(float64(want))
	m.addresses.Set(float64(have))
	m.proxies.WithLabelValues("true").Set(float64(ready))
	m.proxies.WithLabelValues("false").Set(float64(not))
}

func (m *Metrics) problems(problems []problem.Problem) {
	m.problemCount.Reset()
	for _, p := range problems {
		m.problemCount.WithLabelValues(string(p.Reason)).Inc()
	}
}

func (m *Metrics) direct(workloads []status.Direct) {
	m.workloads.Reset()
	for _, s := range []bypass.State{bypass.Enforced, bypass.EnforcedExcept, bypass.Bypassable} {
		m.workloads.WithLabelValues(string(s)).Set(0)
	}
	for _, w := range workloads {
		m.workloads.WithLabelValues(w.State).Inc()
	}
}

func (m *Metrics) wrote(written int, took time.Duration, err error) {
	m.writes.Add(float64(written))
	m.writeSeconds.Observe(took.Seconds())
	m.writeErrors.Add(float64(len(writeErrors(err))))
}
