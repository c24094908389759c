package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// However much one namespace asks for, another one's requests are served as if few others were there. `make tenants` says
// what that means in milliseconds.
func TestTheModestDontWaitForTheGreedy(t *testing.T) {
	procs := runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(procs)
	m := start(t)
	m.tenants()
	var served atomic.Int64
	loud := m.serve("loud", httpPort, backend(t, func(w http.ResponseWriter, _ *http.Request) {
		served.Add(1)
		fmt.Fprint(w, "loud")
	}))
	front := m.serve("web", httpPort, says(t, "web"))
	const many = 300
	flood := strings.Repeat("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1000)
	for range many {
		c := dialAs(t, "greedy", loud)
		go func() { _, _ = io.WriteString(c, flood) }() // both end with the connection
		go func() { _, _ = io.Copy(io.Discard, c) }()
	}
	modest := dialAs(t, "modest", front)
	eventually(t, func() error {
		if n := served.Load(); n < many {
			return fmt.Errorf("the flood has begun with %d requests", n)
		}
		return nil
	})
	var took []int64
	for range 49 {
		before := served.Load()
		modest.request(t, "/")
		if got := modest.status(t); got != "200 " {
			t.Fatal(got)
		}
		took = append(took, served.Load()-before)
	}
	if n := served.Load(); n == many*1000 {
		t.Fatal("the flood was over before the end")
	}
	// In the order in which they came, each of the connections would be served some times.
	slices.Sort(took)
	if n := took[len(took)/2]; n > many/10 {
		t.Errorf("during one request of the modest, %d of the greedy are served: %v", n, took)
	}
	if n := m.metric("tulle_proxy_tenant_wait_seconds_total", "source_namespace", "greedy"); n == 0 {
		t.Error("nobody has waited")
	}
	if n := m.metric("tulle_proxy_tenant_wait_seconds_total", "source_namespace", "modest"); n != 0 {
		t.Errorf("the modest have waited for %v s", n)
	}
}
