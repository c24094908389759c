package http1_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/internal/proxy/exchange"
	"github.com/tulle-mesh/tulle/internal/proxy/http1"
	"github.com/tulle-mesh/tulle/internal/proxy/meter"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
)

// A panic costs the connection that it happened in, is counted, and nothing else.
func TestPanicCostsOneConnection(t *testing.T) {
	r := prometheus.NewRegistry()
	var broken atomic.Bool
	s := http1.New(http1.Config{Mesh: &exchange.Mesh{
		Table: func() *route.Table {
			if broken.Load() {
				panic("bug")
			}
			return &route.Table{}
		},
		Meter: meter.New(meter.Config{Registerer: r}), Log: slog.New(slog.DiscardHandler),
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
	ask := func() string {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		s.Serve(accepted.(*net.TCPConn), &route.Binding{Service: "shop/web", Port: 80}, nil)
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		b, _ := io.ReadAll(c)
		return string(b)
	}
	broken.Store(true)
	if got := ask(); !strings.HasPrefix(got, "HTTP/1.1 500") || !strings.Contains(got, "Tulle-Reason: internal\r\n") {
		t.Errorf("answer %q", got)
	}
	broken.Store(false)
	if got := ask(); !strings.HasPrefix(got, "HTTP/1.1 503") {
		t.Errorf("after the panic: %q", got)
	}
	families, err := r.Gather()
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
