package tcp_test

import (
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/internal/proxy/meter"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/socket/sockettest"
	"github.com/tulle-mesh/tulle/internal/proxy/tcp"
)

// A panic costs the connection that it happened in, and is counted.
func TestPanicCostsOneConnection(t *testing.T) {
	registry := prometheus.NewRegistry()
	s := tcp.New(tcp.Config{
		Table: func() *route.Table { panic("bug") },
		Meter: meter.New(meter.Config{Registerer: registry}), Log: slog.New(slog.DiscardHandler),
	})
	client, c := sockettest.Pair(t)
	over := false
	s.Serve(c, &route.Binding{Service: "shop/web", Port: 80}, func() { over = true })
	if !over {
		t.Error("the connection is not over")
	}
	if _, err := client.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is served")
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "tulle_proxy_panics_total" && f.GetMetric()[0].GetCounter().GetValue() == 1 {
			return
		}
	}
	t.Error("the panic was not counted")
}
