package upstream_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// server accepts connections and hands them out.
func server(t *testing.T) (uint32, <-chan net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	conns := make(chan net.Conn, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns <- c
		}
	}()
	return uint32(l.Addr().(*net.TCPAddr).Port), conns
}

func endpoint(t *testing.T, c upstream.Config, port uint32) (*upstream.Set, *upstream.Endpoint) {
	t.Helper()
	s := upstream.NewSet(c)
	t.Cleanup(s.Close)
	g := s.Group(web)
	e := list("127.0.0.1")
	e.Ports[0].Endpoints[0].Port = port
	update(t, s, "shop/web", e)
	return s, g.Pick()
}

func open(t *testing.T, e *upstream.Endpoint) *upstream.Conn {
	t.Helper()
	c, err := e.Direct().Open(t.Context(), upstream.HTTP1, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// ended waits until the other end has closed its connection.
func ended(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != io.EOF { //nolint:errorlint // nothing else is an orderly end
		t.Errorf("read: %v", err)
	}
}

func TestKeptConnections(t *testing.T) {
	port, conns := server(t)
	s, e := endpoint(t, upstream.Config{MaxIdle: 2}, port)
	a, b, c := open(t, e), open(t, e), open(t, e)
	first, second, third := <-conns, <-conns, <-conns
	e.Direct().Keep(a)
	e.Direct().Keep(b)
	e.Direct().Keep(c) // one too many
	ended(t, third)
	if got := e.Direct().Take(upstream.HTTP1, ""); got != b || !got.Kept {
		t.Error("not the one that was used last")
	}
	if e.Direct().Take(upstream.TLS1, "web") != nil {
		t.Error("a plain connection was taken for one with TLS")
	}
	if !b.Quiet() {
		t.Error("an idle connection is not quiet")
	}
	if _, err := second.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	wait(t, func() bool { return !b.Quiet() })
	s.Remove("shop/web") // the endpoint is of no use any more
	ended(t, first)
	e.Direct().Keep(b)
	if _, err := second.Read(make([]byte, 1)); err == nil {
		t.Error("the connection to an endpoint that is gone is kept")
	}
}

func TestIdleConnectionsToEndpointsEnd(t *testing.T) {
	port, conns := server(t)
	_, e := endpoint(t, upstream.Config{IdleTimeout: 50 * time.Millisecond}, port)
	e.Direct().Keep(open(t, e))
	ended(t, <-conns)
	if e.Direct().Take(upstream.HTTP1, "") != nil {
		t.Error("it is still kept")
	}
}

// A connection that the endpoint has closed is not kept until it has been idle for too long.
func TestClosedConnectionsAreNoticed(t *testing.T) {
	port, conns := server(t)
	_, e := endpoint(t, upstream.Config{IdleTimeout: time.Second}, port)
	e.Direct().Keep(open(t, e))
	(<-conns).Close()
	wait(t, func() bool {
		c := e.Direct().Take(upstream.HTTP1, "")
		if c != nil {
			e.Direct().Keep(c) // it is not idle for long
		}
		return c == nil
	})
}

func wait(t *testing.T, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); {
		if time.Now().After(end) {
			t.Fatal("not within 10 s")
		}
		<-time.After(5 * time.Millisecond)
	}
}
