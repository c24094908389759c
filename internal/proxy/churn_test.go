package proxy_test

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

// rollout is a backend whose pods are replaced one by one, the way a Deployment does it: the new one is ready before
// the old one drains, and the old one ends when it has nothing left to do.
type rollout struct {
	m    *mesh
	pods []*pod
	list []*configv1.Endpoint
	next int
}

// pod serves until nobody is connected to it.
type pod struct {
	*http.Server
	conns atomic.Int64
}

func (r *rollout) add(t *testing.T) {
	t.Helper()
	p := &pod{Server: &http.Server{Protocols: new(http.Protocols)}}
	p.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	p.Protocols.SetHTTP1(true)
	p.Protocols.SetUnencryptedHTTP2(true)
	p.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			p.conns.Add(1)
		case http.StateClosed:
			p.conns.Add(-1)
		}
	}
	l := listen(t)
	go func() { _ = p.Serve(l) }() // until the pod ends
	t.Cleanup(func() { p.Close() })
	e := endpoints("web", httpPort, 80, l.Addr().String()).Ports[0].Endpoints[0]
	r.next++
	e.Pod = fmt.Sprint("web-", r.next)
	r.pods, r.list = append(r.pods, p), append(r.list, e)
	r.publish()
}

// unused waits until nobody has been connected for a while. Pods go on for a time after they were said to drain, and
// Go's server drops requests that reach it as it shuts down.
func (p *pod) unused(t *testing.T) {
	t.Helper()
	quiet := 0
	eventually(t, func() error {
		if quiet++; p.conns.Load() > 0 {
			quiet = 0
		}
		if quiet < 5 {
			return fmt.Errorf("%d connections %w", p.conns.Load(), errNotYet)
		}
		return nil
	})
}

func (r *rollout) publish() {
	e := &configv1.Endpoints{Namespace: "shop", Name: "web", Ports: []*configv1.EndpointPort{{Port: 80}}}
	for _, ep := range r.list {
		e.Ports[0].Endpoints = append(e.Ports[0].Endpoints, &configv1.Endpoint{
			Address: ep.Address, Port: ep.Port, Pod: ep.Pod, Draining: ep.Draining,
		})
	}
	r.m.set("shop/web", e)
}

// replace adds a pod and retires the oldest.
func (r *rollout) replace(t *testing.T) {
	t.Helper()
	r.add(t)
	r.list[0].Draining = true
	r.publish()
	r.pods[0].unused(t)
	if err := r.pods[0].Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	r.pods, r.list = r.pods[1:], r.list[1:]
	r.publish()
}

// Config churns under load, and no request fails: not even those that must not be sent twice.
func TestNothingFailsUnderChurn(t *testing.T) {
	m := start(t)
	r := &rollout{m: m}
	r.add(t)
	r.add(t)
	target := m.sockets.free()
	m.set("shop/web", service("web", httpPort, 80, target))
	front := m.sockets.address(httpPort, target)

	var done atomic.Bool
	var requests, failures atomic.Int64
	var wg sync.WaitGroup
	clients := []http.RoundTripper{&http.Transport{MaxIdleConnsPerHost: 8}, h2cClient(t)}
	for i := range 8 {
		wg.Go(func() {
			for !done.Load() {
				got := ask(t, clients[i%2], front, func(r *http.Request) {
					r.Method = http.MethodPost
					r.Body = http.NoBody
				})
				requests.Add(1)
				if got != "ok" {
					failures.Add(1)
					t.Error(got)
				}
			}
		})
	}
	for i := range 15 {
		r.replace(t)
		s := service("web", httpPort, 80, target)
		if i%2 == 0 {
			s.Ports[0].Routes = append([]*configv1.Route{{
				Matches: []*configv1.Match{{PathRegex: "^(?:/x)"}}, Backends: s.Ports[0].Routes[0].Backends,
			}}, s.Ports[0].Routes...)
		}
		scheme := configv1.Scheme_SCHEME_HTTP
		if i%4 > 1 {
			scheme = configv1.Scheme_SCHEME_H2C
		}
		s.Ports[0].Routes[len(s.Ports[0].Routes)-1].Backends[0].Scheme = scheme
		m.set("shop/web", s)
		m.set(fmt.Sprint("shop/other", i), service(fmt.Sprint("other", i), httpPort, 80, m.sockets.free()))
		if i > 5 {
			m.remove(&configv1.Service{}, fmt.Sprint("shop/other", i-5))
		}
	}
	done.Store(true)
	wg.Wait()
	t.Logf("%d requests, %d failures", requests.Load(), failures.Load())
	if requests.Load() < 100 {
		t.Errorf("only %d requests were made", requests.Load())
	}
}

// One service's change costs little, however many others there are.
func TestApplyIsQuickWithManyServices(t *testing.T) {
	m := start(t)
	m.Apply(manyServices(t, 5000))
	best := time.Hour
	for i := range 20 {
		s := service("s42", httpPort, 80, 0)
		s.Ports[0].TimeoutMs = uint64(i + 1)
		r := m.resource("shop/s42", s)
		begun := time.Now()
		m.Apply(configv1.Update{Set: []configv1.Resource{r}})
		best = min(best, time.Since(begun))
	}
	if best > 20*time.Millisecond { // 1 ms is usual; the machine may be busy
		t.Errorf("a change takes %v at best", best)
	}
	if s, _ := m.Service("shop", "s42", ""); s.GetPorts()[0].GetTimeoutMs() != 20 {
		t.Errorf("the last change is not in use: %v", s)
	}
}

// manyServices describes n services, s0 and on, with two endpoints each.
func manyServices(t testing.TB, n int) configv1.Update {
	t.Helper()
	var u configv1.Update
	for i := range n {
		name := fmt.Sprint("s", i)
		for _, m := range []proto.Message{
			endpoints(name, httpPort, 80, "127.0.0.1:1", "127.0.0.1:2"), service(name, httpPort, 80, 0),
		} {
			r, err := configv1.NewResource("shop/"+name, m)
			if err != nil {
				t.Fatal(err)
			}
			u.Set = append(u.Set, r)
		}
	}
	return u
}

func TestLongNames(t *testing.T) {
	m := start(t)
	name := strings.Repeat("n", 63)
	front := m.serve(name, httpPort, says(t, "long"))
	if got := ask(t, &http.Transport{}, front); got != "long" {
		t.Error(got)
	}
}

// What was config once is forgotten: only what is in use takes memory.
func TestOldConfigIsForgotten(t *testing.T) {
	m := start(t)
	var u configv1.Update
	for i := range 500 {
		name := fmt.Sprint("web", i)
		for _, message := range []proto.Message{endpoints(name, httpPort, 80, "127.0.0.1:9"), service(name, httpPort, 80, m.sockets.free())} {
			r, err := configv1.NewResource("shop/"+name, message)
			if err != nil {
				t.Fatal(err)
			}
			u.Set = append(u.Set, r)
		}
	}
	if refused := m.Apply(u); len(refused) > 0 {
		t.Fatal(refused)
	}
	target := m.sockets.free()
	change := func(i int) {
		m.set("shop/web1", endpoints("web1", httpPort, 80, fmt.Sprint("127.0.0.1:", 1000+i)))
		s := service("web1", httpPort, 80, target)
		s.Ports[0].RetryAttempts = uint32(i)
		m.set("shop/web1", s)
		m.set("shop/web", allow(fmt.Sprint("shop/client", i), enforce, tcpRule))
	}
	change(0)
	before := heap()
	for i := range 200 {
		change(i + 1)
	}
	if after := heap(); after > before+1<<20 {
		t.Errorf("%d KiB became %d with 200 changes", before>>10, after>>10)
	}
}
