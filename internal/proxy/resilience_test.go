package proxy_test

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/balance"
)

// flaky is a backend that answers with a status that can be changed.
func flaky(t *testing.T, status int) (address string, now, requests *atomic.Int64) {
	t.Helper()
	now, requests = new(atomic.Int64), new(atomic.Int64)
	now.Store(int64(status))
	return backend(t, func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		w.WriteHeader(int(now.Load()))
	}), now, requests
}

// limited serves shop/web with a change to its config, and returns how to change it again.
func (m *mesh) limited(change func(*configv1.Service), addresses ...string) (front string, again func(func(*configv1.Service))) {
	m.t.Helper()
	target := m.sockets.free()
	again = func(change func(*configv1.Service)) {
		s := service("web", httpPort, 80, target)
		change(s)
		m.set("shop/web", s)
	}
	m.set("shop/web", endpoints("web", httpPort, 80, addresses...))
	again(change)
	return m.sockets.address(httpPort, target), again
}

func TestRateLimit(t *testing.T) {
	m := start(t)
	address, _, requests := flaky(t, 200)
	limit := func(average, burst uint32, timeout uint64) func(*configv1.Service) {
		return func(s *configv1.Service) {
			s.RateLimit = &configv1.RateLimit{Average: average, Burst: burst}
			s.Ports[0].TimeoutMs = timeout
		}
	}
	began := time.Now()
	front, again := m.limited(limit(1, 5, 0), address)
	for range 3 {
		got := count(t, front, 10)
		if got[""]+got["429 Too Many Requests rate-limited"] != 10 {
			t.Errorf("got %v", got)
		}
		// A change that doesn't concern the limit gives nobody another burst.
		again(limit(1, 5, 60_000))
	}
	if n, most := requests.Load(), 5+1+int64(time.Since(began)/time.Second); n < 5 || n > most {
		t.Errorf("%d requests at the backend, want at least 5 and at most %d", n, most)
	}
	again(limit(1000, 1000, 0))
	if got := count(t, front, 20); got[""] != 20 {
		t.Errorf("with another limit: %v", got)
	}
	again(func(*configv1.Service) {})
	if got := count(t, front, 20); got[""] != 20 {
		t.Errorf("without a limit: %v", got)
	}
}

// Both engines have the same limits, and gRPC has a code for them.
func TestRateLimitOfHTTP2(t *testing.T) {
	m := start(t)
	address, _, _ := flaky(t, 200)
	front, _ := m.limited(func(s *configv1.Service) { s.RateLimit = &configv1.RateLimit{Average: 1, Burst: 1} }, address)
	client := h2cClient(t)
	eventually(t, func() error { // a request a second is more than some machines manage
		ask(t, client, front)
		if got := ask(t, client, front); got != "429 Too Many Requests rate-limited" {
			return fmt.Errorf("second request: %q", got)
		}
		return nil
	})
}

func TestCircuitBreaker(t *testing.T) {
	m := start(t)
	address, status, requests := flaky(t, 500)
	breaks := func(expression string) func(*configv1.Service) {
		return func(s *configv1.Service) { s.CircuitBreaker = expression }
	}
	front, again := m.limited(breaks("ResponseCodeRatio(500, 600, 0, 600) > 0.5"), address)
	// The expression is looked at every 0.1 s.
	eventually(t, func() error {
		r := get(t, front)
		if r.StatusCode != http.StatusServiceUnavailable || r.Header.Get("tulle-reason") != "circuit-open" {
			return fmt.Errorf("%s: the circuit is not open", r.Status)
		}
		return nil
	})
	if requests.Load() < 10 {
		t.Errorf("open after %d answers", requests.Load())
	}
	before := requests.Load()
	status.Store(200)
	again(breaks("responsecoderatio(500,600,0,600)>.5")) // is the same
	refused(t, get(t, front), 503, "circuit-open")
	if requests.Load() != before {
		t.Error("a request passed the open circuit")
	}
	if n := m.metric("tulle_proxy_circuit_opened_total"); n != 1 {
		t.Errorf("opened %v times", n)
	}
	again(breaks("NetworkErrorRatio() > 0.5"))
	refused(t, get(t, front), 200, "")
	if r := m.try("shop/web", func() *configv1.Service {
		s := service("web", httpPort, 80, 0)
		s.CircuitBreaker = "nonsense"
		return s
	}()); len(r) != 1 {
		t.Errorf("refused %v", r)
	}
}

// What never was an answer counts as a network error.
func TestCircuitBreakerOfConnects(t *testing.T) {
	m := start(t)
	front, _ := m.limited(func(s *configv1.Service) { s.CircuitBreaker = "NetworkErrorRatio() >= 1" }, unused(t))
	eventually(t, func() error {
		r := get(t, front)
		if reason := r.Header.Get("tulle-reason"); reason != "circuit-open" {
			return fmt.Errorf("refused for %s", reason)
		}
		return nil
	})
}

// An endpoint that fails five times in a row is out of use; one that says that requests are at fault is not.
func TestFailingEndpointsAreEjected(t *testing.T) {
	m := start(t)
	bad, _, requests := flaky(t, 503)
	odd, _, oddRequests := flaky(t, 501)
	good, _, _ := flaky(t, 200)
	front := m.serve("web", httpPort, bad, odd, good, good)
	client := &http.Transport{}
	for range 100 {
		ask(t, client, front)
	}
	// Those that were under way when it failed may be more.
	if n := requests.Load(); n < 5 || n > 10 {
		t.Errorf("%d requests at the failing endpoint", n)
	}
	if n := oddRequests.Load(); n < 10 {
		t.Errorf("%d requests at the one that answers 501", n)
	}
	if n := m.metric("tulle_proxy_ejections_total"); n != 1 {
		t.Errorf("%v ejections", n)
	}
	if n := m.metric("tulle_proxy_ejected_endpoints"); n != 1 {
		t.Errorf("%v are ejected", n)
	}
}

// When everything fails, retries don't multiply it.
func TestRetriesHaveABudget(t *testing.T) {
	m := start(t, func(c *proxy.Config) { c.Retries = balance.Allowance{Ratio: 0.1, PerSecond: 0.001} })
	address, requests := breaking(t, 1<<40)
	front, _ := m.limited(func(s *configv1.Service) { s.Ports[0].RetryAttempts = 3 }, address)
	client := &http.Transport{}
	for range 100 {
		ask(t, client, front)
	}
	if n := requests.Load(); n < 105 || n > 110 {
		t.Errorf("100 requests became %d, want 10%% more", n)
	}
	if n := m.metric("tulle_proxy_retries_denied_total"); n < 85 {
		t.Errorf("%v retries were denied", n)
	}
}

// The proxy knows its zone from its own resource, and keeps to it where a service asks for that.
func TestNearEndpointsArePreferred(t *testing.T) {
	m := start(t)
	front := m.serve("web", httpPort, says(t, "near"), says(t, "far"))
	client := &http.Transport{}
	e := endpoints("web", httpPort, 80, says(t, "near"), says(t, "far"))
	e.Prefer = configv1.Prefer_PREFER_ZONE
	e.Ports[0].Endpoints[0].Zone, e.Ports[0].Endpoints[1].Zone = "a", "b"
	m.set("shop/web", e)
	m.set("me", &configv1.Proxy{Node: "here", Zone: "a"})
	for range 20 {
		if got := ask(t, client, front); got != "near" {
			t.Fatalf("went %s", got)
		}
	}
	m.set("me", &configv1.Proxy{Node: "here", Zone: "b"})
	for range 20 {
		if got := ask(t, client, front); got != "far" {
			t.Fatalf("went to %s, which is far now", got)
		}
	}
}
