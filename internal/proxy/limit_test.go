package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

func TestUnpassableTargetsAreRefused(t *testing.T) {
	m := start(t)
	address, _ := recorder(t, ok)
	c := dialRaw(t, m.serve("web", httpPort, address))
	c.say("GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n")
	resp, _ := c.answer("GET")
	refused(t, resp, 400, "bad-request")
	c = dialRaw(t, m.serve("web", httpPort, address))
	c.say("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n")
	resp, _ = c.answer("GET")
	refused(t, resp, 405, "connect-method")
}

func refused(t *testing.T, r *http.Response, status int, reason string) {
	t.Helper()
	if r.StatusCode != status || r.Header.Get("tulle-reason") != reason {
		t.Errorf("%s, reason %q; want %d, %q", r.Status, r.Header.Get("tulle-reason"), status, reason)
	}
}

func TestRefusalsOfHTTP(t *testing.T) {
	m := start(t)
	dead := unused(t)
	front := m.serve("web", httpPort, dead)
	r := get(t, front)
	refused(t, r, 503, "connect-failed")
	if b := text(t, r); !strings.HasPrefix(b, "tulle: ") || strings.Count(b, "\n") != 1 || !strings.HasSuffix(b, "(connect-failed)\n") {
		t.Errorf("body %q", b)
	}
	m.set("shop/web", endpoints("web", httpPort, 80))
	refused(t, get(t, front), 503, "no-endpoint")
	m.remove(&configv1.Endpoints{}, "shop/web")
	refused(t, get(t, front), 503, "no-endpoint")
	m.set("shop/web", endpoints("web", httpPort, 80, rawServer(t, func(c net.Conn) { _, _ = readHead(bufio.NewReader(c)) })))
	refused(t, get(t, front), 502, "upstream-failed")
	m.set("shop/web", endpoints("web", httpPort, 80, rawServer(t, func(c net.Conn) {
		_, _ = readHead(bufio.NewReader(c))
		_, _ = io.WriteString(c, "SSH-2.0-x\r\n")
	})))
	refused(t, get(t, front), 502, "upstream-failed")
}

func TestTimeLimit(t *testing.T) {
	t.Parallel()
	m := start(t)
	target := m.sockets.free()
	s := service("web", httpPort, 80, target)
	s.Ports[0].TimeoutMs = 500
	m.set("shop/web", endpoints("web", httpPort, 80, backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/begun" {
			fmt.Fprint(w, "begun")
			http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
	})))
	m.set("shop/web", s)
	front := m.sockets.address(httpPort, target)
	refused(t, get(t, front), 504, "timeout")
	r := get(t, front, func(r *http.Request) { r.URL.Path = "/begun" })
	if b, err := io.ReadAll(r.Body); err == nil {
		t.Errorf("the answer came through as whole: %q", b)
	}
}

func TestHeadsHaveASizeLimit(t *testing.T) {
	m := start(t)
	address, _ := recorder(t, ok)
	front := m.serve("web", httpPort, address)
	for kilobytes, want := range map[int]int{60: 200, 70: 431} {
		c := dialRaw(t, front)
		c.say("GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("a", kilobytes<<10) + "\r\n\r\n")
		if resp, _ := c.answer("GET"); resp.StatusCode != want {
			t.Errorf("%d KiB: %s", kilobytes, resp.Status)
		}
	}
}

func TestHeadsHaveATimeLimit(t *testing.T) {
	t.Parallel()
	m := start(t, quickLimits)
	address, _ := recorder(t, ok)
	front := m.serve("web", httpPort, address)
	for name, begun := range map[string]string{"nothing": "", "a letter": "G", "half": "GET / HTTP/1.1\r\nHost: x\r\n"} {
		t.Run("after "+name, func(t *testing.T) {
			c := dialRaw(t, front)
			c.say(begun)
			if b, err := io.ReadAll(c.r); err != nil || strings.Contains(string(b), " 200 ") {
				t.Errorf("got %q, %v", b, err)
			}
		})
	}
}

func TestIdleConnectionsEnd(t *testing.T) {
	t.Parallel()
	m := start(t, quickLimits)
	address, _ := recorder(t, ok)
	c := dialRaw(t, m.serve("web", httpPort, address))
	c.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	c.answer("GET")
	if _, err := c.r.ReadByte(); err != io.EOF {
		t.Errorf("idle connection: %v", err)
	}
}
