package http2_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/internal/proxy/exchange"
	"github.com/tulle-mesh/tulle/internal/proxy/http2"
	"github.com/tulle-mesh/tulle/internal/proxy/meter"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
)

// A panic costs the request that it happened in, is counted, and nothing else.
func TestPanicCostsOneRequest(t *testing.T) {
	registry := prometheus.NewRegistry()
	var broken atomic.Bool
	s := http2.New(http2.Config{Mesh: &exchange.Mesh{
		Table: func() *route.Table {
			if broken.Load() {
				panic("bug")
			}
			return &route.Table{}
		},
		Meter: meter.New(meter.Config{Registerer: registry}), Log: slog.New(slog.DiscardHandler),
	}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.Serve(c.(*net.TCPConn), nil, &route.Binding{Service: "shop/web", Port: 80}, nil)
		}
	}()
	client := &http.Transport{Protocols: new(http.Protocols)}
	client.Protocols.SetUnencryptedHTTP2(true)
	defer client.CloseIdleConnections()
	ask := func() string {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+l.Addr().String()+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.Header.Get("tulle-reason")
	}
	for _, want := range []string{"no-service", "internal", "no-service"} {
		broken.Store(want == "internal")
		if got := ask(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
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
