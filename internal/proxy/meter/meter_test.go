package meter_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/internal/proxy/meter"
	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
)

// series lists the label sets of a metric with their values, as "service=web ... 3".
func series(t *testing.T, r *prometheus.Registry, name string) map[string]float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				if l.GetValue() != "" {
					labels = append(labels, l.GetName()+"="+l.GetValue())
				}
			}
			out[strings.Join(labels, " ")] = m.GetCounter().GetValue()
		}
	}
	return out
}

func TestSeriesAreBounded(t *testing.T) {
	r := prometheus.NewRegistry()
	m := meter.New(meter.Config{Registerer: r, MaxSeries: 10})
	m.Known("shop/web")
	for i := range 100 {
		m.Request(nil, meter.Exchange{Peers: meter.Peers{
			SourceNamespace: "shop", SourceWorkload: fmt.Sprint("job/", i), Namespace: "shop", Service: "web",
		}, Status: 200})
	}
	got := series(t, r, "tulle_proxy_requests_total")
	if n := got["code=2xx source_namespace=overflow source_workload=overflow"]; len(got) != 11 || n != 90 {
		t.Errorf("%d series, overflow %v", len(got), n)
	}
	if n := series(t, r, "tulle_proxy_series_overflow_total")[""]; n != 90 {
		t.Errorf("overflow counted %v", n)
	}
}

func TestSeriesEndWithTheirService(t *testing.T) {
	r := prometheus.NewRegistry()
	m := meter.New(meter.Config{Registerer: r})
	m.Known("shop/web")
	m.Known("shop/api")
	use := func(service, backend string) {
		p := meter.Peers{Namespace: "shop", Service: service, Backend: backend}
		m.Request(nil, meter.Exchange{Peers: p, Status: 200})
		m.Connections(p).Total.Inc()
		m.Flows(p).DatagramsIn.Inc()
		m.Refused("http", "shop", service, refusal.NoEndpoint)
	}
	use("web", "shop/web")
	use("api", "shop/web")
	use("api", "shop/api")
	m.Forget("shop/web")
	for _, name := range []string{
		"tulle_proxy_requests_total", "tulle_proxy_request_duration_seconds", "tulle_proxy_tcp_connections_total",
		"tulle_proxy_udp_received_datagrams_total", "tulle_proxy_refusals_total",
	} {
		for labels := range series(t, r, name) {
			if strings.Contains(labels, "web") {
				t.Errorf("%s{%s} is still there", name, labels)
			}
		}
		if len(series(t, r, name)) != 1 {
			t.Errorf("%s: %v", name, series(t, r, name))
		}
	}
	// A request that ends after its service does not bring the series back.
	use("web", "shop/web")
	for labels := range series(t, r, "tulle_proxy_requests_total") {
		if strings.Contains(labels, "web") {
			t.Errorf("%s is back", labels)
		}
	}
}

// A log that nobody reads loses lines and says so; it doesn't grow and doesn't wait.
func TestAccessLogDoesNotWait(t *testing.T) {
	r := prometheus.NewRegistry()
	log := meter.NewAccessLog(io.Discard)
	m := meter.New(meter.Config{Registerer: r, Log: log})
	path := strings.Repeat("x", 1<<20)
	for range 10 {
		m.Log(&meter.Entry{Path: path})
	}
	if n := series(t, r, "tulle_proxy_access_log_dropped_total")[""]; n < 5 || n > 9 {
		t.Errorf("%v of 10 lines were dropped", n)
	}
}

var errFull = errors.New("disk full")

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }

func TestAccessLogThatCannotBeWritten(t *testing.T) {
	log := meter.NewAccessLog(full{})
	log.Write(&meter.Entry{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := log.Run(ctx); !errors.Is(err, errFull) {
		t.Errorf("run: %v", err)
	}
}
