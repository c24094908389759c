package proxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/share"
)

// tenants are two namespaces on the proxy's node, each of one pod.
func (m *mesh) tenants() {
	m.set("me", &configv1.Proxy{Node: "here", InSlices: true, Callers: []*configv1.Caller{
		{Addresses: []string{"127.0.0.1"}, Namespace: "modest", Pod: "a"},
		{Addresses: []string{"127.0.0.2"}, Namespace: "greedy", Pod: "b"},
	}})
}

// dialAs connects as the pod of a namespace.
func dialAs(t *testing.T, namespace, front string) *bufferedConn {
	t.Helper()
	var d net.Dialer
	if namespace == "greedy" {
		d.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}
	}
	c, err := d.DialContext(t.Context(), "tcp", front)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &bufferedConn{c, bufio.NewReader(c)}
}

type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

// request sends a request, and status reads the answer's.
func (c *bufferedConn) request(t *testing.T, path string) {
	t.Helper()
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
}

func (c *bufferedConn) status(t *testing.T) string {
	t.Helper()
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("tulle-reason"))
}

func TestConnectionsOverTheShareAreShed(t *testing.T) {
	m := start(t, func(c *proxy.Config) { c.Share = share.Config{Connections: 10} })
	m.tenants()
	front := m.serve("web", httpPort, says(t, "web"))
	var greedy []*bufferedConn
	for range 10 {
		c := dialAs(t, "greedy", front)
		c.request(t, "/")
		if got := c.status(t); got != "200 " {
			t.Fatal(got)
		}
		greedy = append(greedy, c)
	}
	if got := dialAs(t, "greedy", front).status(t); got != "503 over-share" { // whatever it would have asked for
		t.Errorf("one too many: %s", got)
	}
	modest := dialAs(t, "modest", front)
	modest.request(t, "/")
	if got := modest.status(t); got != "200 " {
		t.Errorf("another namespace: %s", got)
	}
	if n := m.metric("tulle_proxy_refusals_total", "protocol", "http", "service", "web", "reason", "over-share"); n != 1 {
		t.Errorf("%v refusals are counted", n)
	}
	for _, c := range greedy[:2] { // one of them makes up for the other namespace's
		c.Close()
	}
	eventually(t, func() error {
		c := dialAs(t, "greedy", front)
		defer c.Close()
		c.request(t, "/")
		if got := c.status(t); got != "200 " {
			return fmt.Errorf("once there is room: %s", got)
		}
		return nil
	})
}

// HTTP/2 and TCP connections count like all others, until they end.
func TestAllConnectionsCount(t *testing.T) {
	m := start(t, func(c *proxy.Config) { c.Share = share.Config{Connections: 2} })
	m.tenants()
	front := m.serve("web", httpPort, says(t, "web"))
	raw := m.serve("raw", tcpPort, rawServer(t, echo))
	h2 := h2cClient(t)
	if got := ask(t, h2, front); got != "web" {
		t.Fatal(got)
	}
	c := dialRaw(t, raw)
	c.exchange("x")
	if over, err := net.Dial("tcp", raw); err == nil { // it may be reset before
		defer over.Close()
		if err := over.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := over.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a third connection is not reset: %v", err)
		}
	}
	h2.CloseIdleConnections()
	c.Close()
	eventually(t, func() error {
		if n := m.metric("tulle_proxy_tenant_connections"); n != 0 {
			return fmt.Errorf("%v connections are counted", n)
		}
		return nil
	})
}

func TestRequestsOverTheShareAreShed(t *testing.T) {
	m := start(t, func(c *proxy.Config) { c.Share = share.Config{Requests: 4} })
	m.tenants()
	begun, release := make(chan struct{}, 10), make(chan struct{})
	front := m.serve("web", httpPort, backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			begun <- struct{}{}
			<-release
		}
		fmt.Fprint(w, "web")
	}))
	var waiting []*bufferedConn
	for range 4 {
		c := dialAs(t, "greedy", front)
		c.request(t, "/wait")
		waiting = append(waiting, c)
		within(t, begun, "request at the backend")
	}
	if n := m.metric("tulle_proxy_tenant_requests", "source_namespace", "greedy"); n != 4 {
		t.Errorf("%v requests are counted", n)
	}
	more, modest := dialAs(t, "greedy", front), dialAs(t, "modest", front)
	more.request(t, "/")
	if got := more.status(t); got != "503 over-share" {
		t.Errorf("one too many: %s", got)
	}
	modest.request(t, "/")
	if got := modest.status(t); got != "200 " {
		t.Errorf("another namespace: %s", got)
	}
	close(release)
	for _, c := range waiting {
		if got := c.status(t); got != "200 " {
			t.Errorf("what was under way: %s", got)
		}
	}
	eventually(t, func() error { // a request ends after its answer
		more.request(t, "/")
		if got := more.status(t); got != "200 " {
			return fmt.Errorf("once there is room: %s", got)
		}
		return nil
	})
}

// Among too many UDP flows, one of those who have more than their share goes, however idle the others' are.
func TestFlowsOverTheShareAreEvicted(t *testing.T) {
	m := start(t, func(c *proxy.Config) { c.MaxFlows = 10 })
	m.tenants()
	front := m.serve("echo", udpPort, echoUDP(t))
	dial := func(last byte) *udpClient {
		c, err := net.DialUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, last)}, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(front)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return &udpClient{c, t}
	}
	for range 3 {
		dial(1).ask("modest")
	}
	for range 50 {
		dial(2).ask("greedy")
	}
	modest := func(want float64) {
		t.Helper()
		eventually(t, func() error { // a flow that was evicted ends a moment later
			for namespace, want := range map[string]float64{"modest": want, "greedy": 10 - want} {
				if n := m.metric("tulle_proxy_udp_flows", "source_namespace", namespace); n != want {
					return fmt.Errorf("%s has %v flows, want %v", namespace, n, want)
				}
			}
			return nil
		})
	}
	modest(3)
	dial(1).ask("another")
	modest(4)
}

// exhausted is a listener whose process has no file descriptors, some times.
type exhausted struct {
	net.Listener
	times atomic.Int64
}

func (l *exhausted) Accept() (net.Conn, error) {
	if l.times.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return l.Listener.Accept()
}

// exhaustedSockets hands out listeners that fail three times.
type exhaustedSockets struct{ *sockets }

func (s exhaustedSockets) Listen(ctx context.Context, address string) (net.Listener, error) {
	l, err := s.sockets.Listen(ctx, address)
	if err != nil {
		return nil, err
	}
	e := &exhausted{Listener: l}
	e.times.Store(3)
	return e, nil
}

// Connections that can't be accepted for want of file descriptors wait until there are some.
func TestAcceptingGoesOnAfterItFailed(t *testing.T) {
	var own *sockets
	m := start(t, func(c *proxy.Config) {
		own = c.Sockets.(*sockets)
		c.Sockets = exhaustedSockets{own}
	})
	if got := ask(t, &http.Transport{}, m.serve("web", httpPort, says(t, "web"))); got != "web" {
		t.Error(got)
	}
	if n := m.metric("tulle_proxy_accept_failures_total"); n != 3 {
		t.Errorf("%v failures are counted", n)
	}
}
