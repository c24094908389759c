//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/pprof"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tulle-mesh/tulle/internal/firsthop"
	"github.com/tulle-mesh/tulle/internal/observed"
	"github.com/tulle-mesh/tulle/internal/version"
)

// registerMetrics adds what the worker knows besides its parts.
func (w *worker) registerMetrics() {
	w.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tulle_build_info", Help: "Always 1; says which version runs.",
			ConstLabels: prometheus.Labels{"version": version.Version, "component": "proxy"},
		}, func() float64 { return 1 }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "tulle_proxy_worker_restarts_total", Help: "Workers before this one since the container started.",
		}, func() float64 { return float64(w.held.Hello.Restarts) }),
	)
	for _, g := range []struct {
		name, help string
		value      func() float64
	}{
		{"tulle_proxy_config_connected", "1 while a controller is connected.", func() float64 { return number(w.client.Status().Connected) }},
		{"tulle_proxy_config_from_disk", "1 while the config in use is the stored one that no controller has confirmed.", func() float64 { return number(w.client.Status().FromDisk) }},
		{"tulle_proxy_config_refused_resources", "Resources that this proxy could not take into use.", func() float64 { return float64(w.client.Status().Refused) }},
		{"tulle_proxy_config_changed_timestamp_seconds", "When the config in use came into use.", func() float64 { return unix(w.client.Status().Since) }},
	} {
		w.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: g.name, Help: g.help}, g.value))
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

func (w *worker) metricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(w.registry, promhttp.HandlerOpts{}))
	return mux
}

// adminHandler is for those who may look into the pod: it tells all but secrets, of which the worker has only its token.
func (w *worker) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /version", func(out http.ResponseWriter, _ *http.Request) { fmt.Fprintln(out, version.Version) })
	mux.HandleFunc("GET /config", func(out http.ResponseWriter, _ *http.Request) {
		out.Header().Set("Content-Type", "application/json")
		if err := w.applied.write(out); err != nil {
			w.log.Debug("could not show the config", "err", err)
		}
	})
	mux.HandleFunc("GET /status", func(out http.ResponseWriter, _ *http.Request) {
		out.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(out).Encode(w.status()); err != nil {
			w.log.Debug("could not show the status", "err", err)
		}
	})
	mux.HandleFunc("GET /observed", w.observed)
	mux.Handle("GET "+firsthop.Path, firsthop.Handler(w.podName))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// observed answers with what was called in audit mode: of the destination "to", or of all.
func (w *worker) observed(out http.ResponseWriter, r *http.Request) {
	report := w.proxy.Observed(observed.To(r.URL.Query().Get("to")))
	report.Pod, report.Node = w.podName, w.nodeName
	out.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(out).Encode(report); err != nil {
		w.log.Debug("could not show what was observed", "err", err)
	}
}

// status is what GET /status answers.
type status struct {
	Version   string    `json:"version"`
	Pod       string    `json:"pod"`
	Node      string    `json:"node"`
	PID       int       `json:"pid"`
	Connected bool      `json:"connected"`
	FromDisk  bool      `json:"fromDisk"`
	Config    string    `json:"config"`
	Since     time.Time `json:"since"`
	Refused   int       `json:"refused"`
	Restarts  int       `json:"restarts"`
}

func (w *worker) status() status {
	s := w.client.Status()
	return status{
		Version: version.Version, Pod: w.podName, Node: w.nodeName, PID: os.Getpid(), Connected: s.Connected, FromDisk: s.FromDisk,
		Config: s.Version, Since: s.Since, Refused: s.Refused, Restarts: w.held.Hello.Restarts,
	}
}
