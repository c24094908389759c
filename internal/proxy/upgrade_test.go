package proxy_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy"
)

// shouter switches to a protocol in which lines are answered in upper case, after a greeting that comes right behind
// the 101. The end of the client's lines is answered by "bye".
func shouter(t *testing.T) string {
	t.Helper()
	return rawServer(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		head, err := readHead(r)
		if err != nil {
			return
		}
		if !strings.Contains(head, "\r\nConnection: Upgrade\r\n") || !strings.Contains(head, "\r\nUpgrade: shout/1\r\n") {
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: Shout/1\r\nX-Key: k\r\n\r\nhello\n")
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				_, _ = io.WriteString(c, "bye\n")
				return
			}
			_, _ = io.WriteString(c, strings.ToUpper(line))
		}
	})
}

const askToShout = "GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: shout/1\r\n\r\n"

func shout(t *testing.T, front string) *rawClient {
	t.Helper()
	c := dialRaw(t, front)
	c.say(askToShout + "ahead\n") // the last line is sent before the switch
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "Shout/1" || resp.Header.Get("X-Key") != "k" {
		t.Fatalf("%v, %v", resp, err)
	}
	c.expect("hello\n")
	c.expect("AHEAD\n")
	return c
}

func (c *rawClient) expect(want string) {
	c.t.Helper()
	if line, err := c.r.ReadString('\n'); line != want {
		c.t.Fatalf("read %q, %v; want %q", line, err, want)
	}
}

func TestUpgrade(t *testing.T) {
	m := start(t)
	front := m.serve("web", httpPort, shouter(t))
	c := shout(t, front)
	c.say("more\n")
	c.expect("MORE\n")
	if err := c.CloseWrite(); err != nil { // a half-closed connection still hears
		t.Fatal(err)
	}
	c.expect("bye\n")
	if _, err := c.r.ReadByte(); err != io.EOF {
		t.Errorf("after bye: %v", err)
	}
}

func TestUpgradeOutlivesTheTimeLimitAndConfigChanges(t *testing.T) {
	t.Parallel()
	m := start(t)
	address, target := shouter(t), m.sockets.free()
	s := service("web", httpPort, 80, target)
	s.Ports[0].TimeoutMs = 1000
	m.set("shop/web", endpoints("web", httpPort, 80, address))
	m.set("shop/web", s)
	c := shout(t, m.sockets.address(httpPort, target))
	<-time.After(1200 * time.Millisecond)
	m.remove(&configv1.Service{}, "shop/web")
	m.remove(&configv1.Endpoints{}, "shop/web")
	c.say("still here\n")
	c.expect("STILL HERE\n")
}

func TestUpgradeOfH2CServices(t *testing.T) {
	m := start(t)
	target := m.sockets.free()
	s := service("web", httpPort, 80, target)
	s.Ports[0].Routes[0].Backends[0].Scheme = configv1.Scheme_SCHEME_H2C
	m.set("shop/web", endpoints("web", httpPort, 80, shouter(t)))
	m.set("shop/web", s)
	shout(t, m.sockets.address(httpPort, target))
}

func TestUpgradesAreRefusedByTheBackendOrNotAsked(t *testing.T) {
	m := start(t)
	t.Run("refused", func(t *testing.T) {
		address, _ := recorder(t, ok)
		c := dialRaw(t, m.serve("web", httpPort, address))
		for range 2 {
			c.say(askToShout)
			if resp, body := c.answer("GET"); resp.StatusCode != 200 || body != "ok" {
				t.Errorf("%s %q", resp.Status, body)
			}
		}
	})
	t.Run("another protocol", func(t *testing.T) {
		address, _ := recorder(t, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: whisper\r\n\r\n")
		c := dialRaw(t, m.serve("web", httpPort, address))
		c.say(askToShout)
		resp, _ := c.answer("GET")
		refused(t, resp, 502, "upgrade-failed")
	})
	t.Run("unasked", func(t *testing.T) {
		address, _ := recorder(t, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: shout/1\r\n\r\n")
		c := dialRaw(t, m.serve("web", httpPort, address))
		c.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, _ := c.answer("GET")
		refused(t, resp, 502, "upgrade-failed")
	})
}

func TestIdleUpgradesEnd(t *testing.T) {
	t.Parallel()
	m := start(t, func(c *proxy.Config) { c.TCPIdle = 500 * time.Millisecond })
	c := shout(t, m.serve("web", httpPort, shouter(t)))
	if _, err := c.r.ReadByte(); err == nil {
		t.Error("an idle connection said something")
	}
}

func TestUpgradesAreCutAtTheEndOfDraining(t *testing.T) {
	m := start(t)
	c := shout(t, m.serve("web", httpPort, shouter(t)))
	ctx, cancel := context.WithCancel(t.Context())
	drained := make(chan error, 1)
	go func() { drained <- m.Drain(ctx) }()
	c.say("still\n")
	c.expect("STILL\n")
	cancel()
	if err := within(t, drained, "end of draining"); err != proxy.ErrCut { //nolint:errorlint // as documented
		t.Errorf("drain: %v", err)
	}
	if _, err := c.r.ReadByte(); err == nil {
		t.Error("not cut")
	}
}
