package proxy_test

import (
	"errors"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/proxy"
)

// A connection ends with its client, also if the client ended its half along with a request, and so told of both at once.
func TestConnectionsEndWithTheirClients(t *testing.T) {
	t.Parallel()
	m := start(t, quickLimits, func(c *proxy.Config) { c.HTTPIdle = time.Hour })
	address, _ := recorder(t, ok)
	c := dialRaw(t, m.serve("web", httpPort, address))
	c.say(get1 + "\r\n")
	c.answer("GET")
	cork(t, c)
	c.say(get1 + "\r\n")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, body := c.answer("GET"); body != "ok" {
		t.Errorf("got %q", body)
	}
	if b, err := io.ReadAll(c.r); err != nil || len(b) > 0 {
		t.Errorf("after the last answer: %q, %v", b, err)
	}
}

// cork has what is written wait for the end, so that both are told of together.
func cork(t *testing.T, c *rawClient) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_CORK, 1)
	})
	if err := errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
}
