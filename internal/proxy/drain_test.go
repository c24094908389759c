package proxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy"
)

func TestDrainAsksHTTPConnectionsToEnd(t *testing.T) {
	t.Parallel()
	m := start(t, func(c *proxy.Config) { c.DrainIdle = 2 * time.Second })
	goOn, begun := make(chan struct{}), make(chan struct{})
	front := m.serve("web", httpPort, backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(begun)
			<-goOn
		}
		fmt.Fprint(w, "ok")
	}))
	slow, used, idle := dialRaw(t, front), dialRaw(t, front), dialRaw(t, front)
	slow.say("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
	for _, c := range []*rawClient{used, idle} {
		c.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		c.answer("GET")
	}
	h2 := h2cClient(t)
	ask(t, h2, front)
	within(t, begun, "request at the backend")

	drained := make(chan error, 1)
	go func() { drained <- m.Drain(t.Context()) }()
	eventually(t, func() error {
		if c, err := net.Dial("tcp", front); err == nil {
			c.Close()
			return errNotYet
		}
		return nil
	})
	used.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n") // an idle connection may still be used
	if resp, body := used.answer("GET"); body != "ok" || !resp.Close {
		t.Errorf("%s %v %q", resp.Status, resp.Header, body)
	}
	if got := ask(t, h2, front); got != "ok" {
		t.Errorf("h2: %q", got)
	}
	if _, err := idle.r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("idle connection: %v", err)
	}
	select {
	case err := <-drained:
		t.Fatalf("drained with a request under way: %v", err)
	default:
	}
	close(goOn)
	if resp, body := slow.answer("GET"); body != "ok" {
		t.Errorf("slow request: %s %q", resp.Status, body)
	}
	if err := within(t, drained, "end of draining"); err != nil {
		t.Errorf("drain: %v", err)
	}
	eventually(t, func() error {
		if n := m.metric("tulle_proxy_http_connections"); n != 0 {
			return fmt.Errorf("%v connections are left", n)
		}
		return nil
	})
}

func TestDrainEndsAtOnceWithoutConnections(t *testing.T) {
	m := start(t, func(c *proxy.Config) { c.DrainIdle = time.Hour })
	m.serve("web", httpPort, says(t, "web"))
	m.serve("db", tcpPort, says(t, "db"))
	m.serve("dns", udpPort, answerUDP(t, "x"))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := m.Drain(ctx); err != nil {
		t.Error(err)
	}
	if refused := m.try("shop/late", service("late", httpPort, 80, 20099)); len(refused) > 0 {
		t.Errorf("a draining proxy blames a port: %+v", refused)
	}
}

func TestDrainWaitsForTCPAndUDPUpToItsLimit(t *testing.T) {
	m := start(t)
	front := m.serve("db", tcpPort, rawServer(t, echo))
	c := dialRaw(t, front)
	u := dialUDP(t, m.serve("dns", udpPort, echoUDP(t)))
	if got := u.ask("hello"); got != "hello" {
		t.Fatal(got)
	}
	c.say("hello\n")
	c.expect("hello\n")
	ctx, cancel := context.WithCancel(t.Context())
	drained := make(chan error, 1)
	go func() { drained <- m.Drain(ctx) }()
	eventually(t, func() error {
		if c, err := net.Dial("tcp", front); err == nil {
			c.Close()
			return errNotYet
		}
		return nil
	})
	c.say("still\n")
	c.expect("still\n")
	if got := u.ask("still"); got != "still" {
		t.Error(got)
	}
	cancel()
	if err := within(t, drained, "end of draining"); !errors.Is(err, proxy.ErrCut) {
		t.Errorf("drain: %v", err)
	}
	if _, err := bufio.NewReader(c).ReadByte(); err == nil {
		t.Error("not cut")
	}
}

// The endpoint of a client that has ended its half may have nothing to say any more.
func TestDrainCutsHalfClosedConnections(t *testing.T) {
	m := start(t)
	ended := make(chan struct{})
	c := dialRaw(t, m.serve("db", tcpPort, rawServer(t, func(c net.Conn) {
		_, _ = io.Copy(io.Discard, c)
		close(ended)
		<-t.Context().Done()
	})))
	c.say("hello")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	within(t, ended, "end of what the client says")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	drained := make(chan error, 1)
	go func() { drained <- m.Drain(ctx) }()
	if err := within(t, drained, "end of draining"); !errors.Is(err, proxy.ErrCut) {
		t.Errorf("drain: %v", err)
	}
}

// Resolvers that keep their connections ask a draining proxy, too: it goes on naming the addresses, which lead elsewhere.
func TestDrainingProxyStillNamesAddresses(t *testing.T) {
	t.Parallel()
	m := start(t)
	m.serve("web", httpPort, backend(t, func(http.ResponseWriter, *http.Request) {}))
	if _, open := m.Service("shop", "web", ""); !open {
		t.Fatal("a served service can't be called")
	}
	if err := m.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, open := m.Service("shop", "web", ""); !open {
		t.Error("the name of a service is gone while the proxy drains")
	}
}
