package proxy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/meter"
)

func TestRequestsAreCounted(t *testing.T) {
	m := start(t)
	m.set("shop/v1", endpoints("v1", httpPort, 80, backend(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, "none")
	})))
	target := m.sockets.free()
	m.set("shop/web", split(service("web", httpPort, 80, target), shares{"v1": 1}))
	front := m.sockets.address(httpPort, target)
	for range 3 {
		text(t, get(t, front, func(r *http.Request) {
			r.Method = http.MethodPost
			r.Body = io.NopCloser(strings.NewReader("hello"))
			r.ContentLength = 5
		}))
	}
	peers := []string{
		"source_namespace", "shop", "source_workload", "deployment/client",
		"namespace", "shop", "service", "web", "port", "80", "backend", "shop/v1",
	}
	eventually(t, func() error { // counted after the answer was sent
		for name, want := range map[string]float64{
			"tulle_proxy_request_duration_seconds": 3, "tulle_proxy_request_bytes_total": 15, "tulle_proxy_response_bytes_total": 12,
		} {
			if got := m.metric(name, peers...); got != want {
				return fmt.Errorf("%s is %v, want %v", name, got, want)
			}
		}
		if got := m.metric("tulle_proxy_requests_total", append(peers, "code", "4xx")...); got != 3 {
			return fmt.Errorf("%v requests", got)
		}
		return nil
	})
}

func TestUnknownCallersAndRefusalsAreCounted(t *testing.T) {
	m := start(t)
	front := m.serve("web", httpPort)
	m.set("me", &configv1.Proxy{Node: "here"})
	text(t, get(t, front))
	eventually(t, func() error {
		if got := m.metric("tulle_proxy_requests_total", "source_workload", "unknown", "service", "web", "code", "5xx"); got != 1 {
			return fmt.Errorf("%v requests", got)
		}
		if got := m.metric("tulle_proxy_refusals_total", "protocol", "http", "namespace", "shop", "service", "web", "reason", "no-endpoint"); got != 1 {
			return fmt.Errorf("%v refusals", got)
		}
		return nil
	})
	m.remove(&configv1.Service{}, "shop/web")
	if got := m.metric("tulle_proxy_requests_total", "service", "web"); got != 0 {
		t.Error("the series of a removed service stay")
	}
}

// Every metric is in the documentation, and the other way round.
func TestMetricsAreDocumented(t *testing.T) {
	m := start(t, func(c *proxy.Config) { c.AccessLog = meter.NewAccessLog(io.Discard) })
	text(t, get(t, m.serve("web", httpPort, says(t, "web"))))
	text(t, get(t, m.serve("none", httpPort)))
	dialRaw(t, m.serve("db", tcpPort, rawServer(t, echo))).say("x")
	dialUDP(t, m.serve("dns", udpPort, echoUDP(t))).ask("x")
	text(t, get(t, m.protect("audited", httpPort, allow("shop/nobody", audit, tcpRule), says(t, "audited"))))
	cut := dialRaw(t, m.protect("cut", tcpPort, allow("shop/client", enforce, tcpRule), rawServer(t, echo)))
	cut.exchange("x")
	m.set("shop/web", allow("shop/nobody", enforce, tcpRule))
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	traffic, _, found := strings.Cut(string(page), "\n# Metrics of the proxy's program")
	if !found {
		t.Error("there is no end of the section")
	}
	documented := map[string]bool{}
	for _, word := range strings.FieldsFunc(traffic, func(c rune) bool {
		return c != '_' && (c < 'a' || c > 'z')
	}) {
		if strings.HasPrefix(word, "tulle_proxy_") {
			documented[word] = true
		}
	}
	// They have no series until there was one.
	documented["tulle_proxy_panics_total"], documented["tulle_proxy_circuit_opened_total"] = false, false
	eventually(t, func() error {
		families, err := m.metrics.Gather()
		if err != nil {
			return err
		}
		served := map[string]bool{"tulle_proxy_panics_total": false, "tulle_proxy_circuit_opened_total": false}
		for _, f := range families {
			served[f.GetName()] = true
		}
		if !maps.Equal(served, documented) {
			return fmt.Errorf("served:     %v\ndocumented: %v", slices.Sorted(maps.Keys(served)), slices.Sorted(maps.Keys(documented)))
		}
		return nil
	})
}

// buffer is a bytes.Buffer for two goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestAccessLog(t *testing.T) {
	var log buffer
	m := start(t, func(c *proxy.Config) { c.AccessLog = meter.NewAccessLog(&log) })
	address := says(t, "web")
	m.set("shop/v1", endpoints("v1", httpPort, 80, address))
	target := m.sockets.free()
	m.set("shop/web", split(service("web", httpPort, 80, target), shares{"v1": 1}))
	c := dialRaw(t, m.sockets.address(httpPort, target))
	c.say("POST /a%2Fb?token=secret HTTP/1.1\r\nHost: web.shop.mesh\r\nAuthorization: Bearer secret\r\nCookie: secret\r\nContent-Length: 2\r\n\r\nhi")
	c.answer("POST")
	m.set("shop/v1", endpoints("v1", httpPort, 80))
	c.say("GET / HTTP/1.1\r\nHost: web.shop.mesh\r\n\r\n")
	c.answer("GET")
	m.stop() // what is pending is written at the end
	if strings.Contains(log.String(), "secret") {
		t.Errorf("secrets in the log:\n%s", log.String())
	}
	var lines []meter.Entry
	for d := json.NewDecoder(strings.NewReader(log.String())); d.More(); {
		var e meter.Entry
		if err := d.Decode(&e); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, e)
	}
	if len(lines) != 2 {
		t.Fatalf("%d lines:\n%s", len(lines), log.String())
	}
	got := lines[0]
	if got.Time.IsZero() || got.Seconds <= 0 {
		t.Errorf("time %v, seconds %v", got.Time, got.Seconds)
	}
	got.Time, got.Seconds = lines[1].Time, 0
	want := meter.Entry{
		Time: lines[1].Time, Protocol: "HTTP/1.1", Client: "127.0.0.1", SourceNamespace: "shop", SourcePod: "client-1",
		SourceWorkload: "deployment/client", Namespace: "shop", Service: "web", Port: 80, Split: "shop/canary", Backend: "shop/v1",
		Endpoint: address, Method: "POST", Host: "web.shop.mesh", Path: "/a%2Fb", Status: 200, BytesIn: 2, BytesOut: 3, Attempts: 1,
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if lines[1].Status != 503 || lines[1].Reason != "no-endpoint" {
		t.Errorf("got %+v", lines[1])
	}
}
