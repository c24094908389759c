package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

func TestEndpointsTakeTurns(t *testing.T) {
	m := start(t)
	front := m.serve("web", httpPort, says(t, "a"), says(t, "b"), says(t, "c"))
	client := &http.Transport{}
	got := map[string]int{}
	for range 90 {
		got[ask(t, client, front)]++
	}
	// A request may still be under way for the proxy when its client makes the next one, so they are not exact here.
	if got["a"] < 20 || got["b"] < 20 || got["c"] < 20 {
		t.Errorf("got %v", got)
	}
}

func TestBusyEndpointsAreSpared(t *testing.T) {
	m := start(t)
	begun, release := make(chan struct{}), make(chan struct{})
	busy := backend(t, func(w http.ResponseWriter, _ *http.Request) {
		close(begun) // a second request would panic
		<-release
		fmt.Fprint(w, "busy")
	})
	front := m.serve("web", httpPort, busy, says(t, "free"))
	first := make(chan string, 1)
	client := &http.Transport{}
	go func() { first <- ask(t, client, front) }()
	within(t, begun, "first request at the backend")
	for range 20 {
		if got := ask(t, client, front); got != "free" {
			t.Errorf("went to %q", got)
		}
	}
	close(release)
	if got := within(t, first, "answer"); got != "busy" {
		t.Errorf("the first request got %q", got)
	}
}

func TestFailedConnectsAreTriedElsewhere(t *testing.T) {
	m := start(t)
	front := m.serve("web", httpPort, unused(t), says(t, "up"), unused(t))
	for _, method := range []string{"GET", "POST"} {
		for range 6 {
			c := dialRaw(t, front)
			c.say(method + " / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")
			if resp, body := c.answer(method); body != "up" {
				t.Errorf("%s: %s %q", method, resp.Status, body)
			}
		}
	}
}

// Endpoints that could not be connected to are passed over for a while: they are not tried by every request.
func TestFailedEndpointsRest(t *testing.T) {
	m := start(t)
	front := m.serve("web", httpPort, unused(t), says(t, "up"))
	client := &http.Transport{}
	for range 20 {
		if got := ask(t, client, front); got != "up" {
			t.Fatal(got)
		}
	}
	if failed := m.metric("tulle_proxy_connect_failures_total"); failed < 1 || failed > 3 {
		t.Errorf("%v connects failed", failed)
	}
}

// breaking is a backend that reads requests and hangs up instead of answering, as often as told.
func breaking(t *testing.T, times int64) (address string, requests *atomic.Int64) {
	t.Helper()
	requests = new(atomic.Int64)
	return rawServer(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		for {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			if requests.Add(1) <= times {
				return
			}
			_, _ = io.WriteString(c, ok)
		}
	}), requests
}

func TestRetries(t *testing.T) {
	for _, c := range []struct {
		name, method, body string
		attempts           uint32
		broken             int64
		status             int
		requests           int64
	}{
		{"none asked for", "GET", "", 0, 1, 502, 1},
		{"idempotent", "GET", "", 2, 2, 200, 3},
		{"idempotent, but not for ever", "GET", "", 2, 5, 502, 3},
		{"DELETE", "DELETE", "", 1, 1, 200, 2},
		{"POST is never sent twice", "POST", "", 2, 1, 502, 1},
		{"POST with a body", "POST", "body", 2, 1, 502, 1},
		{"PATCH", "PATCH", "", 2, 1, 502, 1},
		{"a body is lost", "PUT", "body", 2, 1, 502, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := start(t)
			address, requests := breaking(t, c.broken)
			target := m.sockets.free()
			s := service("web", httpPort, 80, target)
			s.Ports[0].RetryAttempts = c.attempts
			m.set("shop/web", endpoints("web", httpPort, 80, address))
			m.set("shop/web", s)
			conn := dialRaw(t, m.sockets.address(httpPort, target))
			conn.say(fmt.Sprintf("%s / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nIdempotency-Key: 1\r\n\r\n%s", c.method, len(c.body), c.body))
			resp, _ := conn.answer(c.method)
			if resp.StatusCode != c.status || requests.Load() != c.requests {
				t.Errorf("%s after %d requests, want %d after %d", resp.Status, requests.Load(), c.status, c.requests)
			}
		})
	}
}

// A backend that ends a kept connection as the next request comes costs a request that can't be repeated, and no other.
func TestKeptConnectionsThatEnd(t *testing.T) {
	m := start(t)
	var posts atomic.Int64
	front := m.serve("web", httpPort, rawServer(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		for i := range 2 {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if req.Method == http.MethodPost {
				posts.Add(1)
			}
			if i == 1 {
				return // the second one of a connection gets no answer
			}
			_, _ = io.WriteString(c, ok)
		}
	}))
	client := &http.Transport{}
	for range 10 {
		if got := ask(t, client, front); got != "ok" {
			t.Errorf("GET: %s", got)
		}
	}
	sent := 0
	for range 10 {
		ask(t, client, front, func(r *http.Request) { r.Method = http.MethodPost })
		sent++
	}
	if int(posts.Load()) > sent {
		t.Errorf("%d POSTs became %d", sent, posts.Load())
	}
}

// connected is an HTTP backend that knows how many connections it has.
func connected(t *testing.T, handler http.HandlerFunc) (address string, conns *atomic.Int64) {
	t.Helper()
	conns = new(atomic.Int64)
	s := httptest.NewUnstartedServer(handler)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			conns.Add(1)
		case http.StateClosed, http.StateHijacked:
			conns.Add(-1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), conns
}

func draining(e *configv1.Endpoints) *configv1.Endpoints {
	for _, ep := range e.Ports[0].Endpoints {
		ep.Draining = true
	}
	return e
}

// A draining endpoint gets nothing new, and what it has goes on; idle connections to it end at once.
func TestDrainingEndpoints(t *testing.T) {
	for _, scheme := range []configv1.Scheme{configv1.Scheme_SCHEME_HTTP, configv1.Scheme_SCHEME_H2C} {
		t.Run(scheme.String(), func(t *testing.T) {
			m := start(t)
			goOn, begun := make(chan struct{}), make(chan struct{})
			old, conns := connected(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/slow" {
					close(begun)
					<-goOn
				}
				fmt.Fprint(w, "old")
			})
			front := m.serveScheme("web", scheme, old)
			client := &http.Transport{}
			answer := make(chan string, 1)
			go func() { answer <- ask(t, client, front, func(r *http.Request) { r.URL.Path = "/slow" }) }()
			within(t, begun, "request at the backend")
			if got := ask(t, client, front); got != "old" {
				t.Fatal(got)
			}

			both := draining(endpoints("web", httpPort, 80, old))
			both.Ports[0].Endpoints = append(both.Ports[0].Endpoints, endpoints("web", httpPort, 80, says(t, "new")).Ports[0].Endpoints...)
			both.Ports[0].Endpoints[1].Pod = "web-new"
			m.set("shop/web", both)
			for range 5 {
				if got := ask(t, client, front); got != "new" {
					t.Errorf("a new request went to %q", got)
				}
			}
			eventually(t, func() error {
				if n := conns.Load(); n != 1 {
					return fmt.Errorf("%d connections to the draining endpoint", n)
				}
				return nil
			})
			close(goOn)
			if got := within(t, answer, "answer"); got != "old" {
				t.Errorf("the old request: %q", got)
			}
			eventually(t, func() error {
				if n := conns.Load(); n != 0 {
					return fmt.Errorf("%d connections left", n)
				}
				return nil
			})
		})
	}
}

// Endpoints that stay keep their connections over changes of others, and of services that share them.
func TestConnectionsSurviveConfigChanges(t *testing.T) {
	m := start(t)
	var opened atomic.Int64
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	address := s.Listener.Addr().String()
	front := m.serve("web", httpPort, address)
	client := &http.Transport{}
	for i := range 10 {
		if got := ask(t, client, front); got != "ok" {
			t.Fatal(got)
		}
		e := endpoints("web", httpPort, 80, address, unused(t))
		e.Ports[0].Endpoints[1].Draining = true
		e.Ports[0].Endpoints[1].Pod = fmt.Sprint(i)
		m.set("shop/web", e)
		m.set("shop/alias", endpoints("alias", httpPort, 80, address))
		changed := service("web", httpPort, 80, 20001)
		changed.Ports[0].TimeoutMs = uint64(60000 + i)
		m.set("shop/web", changed)
	}
	if opened.Load() != 1 {
		t.Errorf("%d connections were opened", opened.Load())
	}
}

func TestAllEndpointsDrainingIsNoEndpoint(t *testing.T) {
	m := start(t)
	address := says(t, "old")
	front := m.serve("web", httpPort, address)
	m.set("shop/web", draining(endpoints("web", httpPort, 80, address)))
	refused(t, get(t, front), 503, "no-endpoint")
}

// metric sums a metric over all label sets that hold the given ones (name, value, ...).
func (m *mesh) metric(name string, labels ...string) float64 {
	m.t.Helper()
	families, err := m.metrics.Gather()
	if err != nil {
		m.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	next:
		for _, s := range f.GetMetric() {
			has := map[string]string{}
			for _, l := range s.GetLabel() {
				has[l.GetName()] = l.GetValue()
			}
			for i := 0; i < len(labels); i += 2 {
				if has[labels[i]] != labels[i+1] {
					continue next
				}
			}
			sum += s.GetCounter().GetValue() + s.GetGauge().GetValue() + float64(s.GetHistogram().GetSampleCount())
		}
	}
	return sum
}
