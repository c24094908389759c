package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// get makes one request on a connection of its own.
func get(t *testing.T, address string, change ...func(*http.Request)) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(r)
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func text(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestHTTPReachesAnEndpoint(t *testing.T) {
	m := start(t)
	address := m.serve("web", httpPort, says(t, "web"))
	for range 3 {
		if got := text(t, get(t, address)); got != "web" {
			t.Errorf("answer %q", got)
		}
	}
	if !m.Ready() {
		t.Error("not ready")
	}
}

func TestTCPServerSpeaksFirst(t *testing.T) {
	m := start(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintln(c, "220 hello")
				line, _ := bufio.NewReader(c).ReadString('\n')
				fmt.Fprint(c, line)
			}()
		}
	}()
	c, err := net.Dial("tcp", m.serve("mail", tcpPort, l.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := bufio.NewReader(c)
	if line, err := r.ReadString('\n'); line != "220 hello\n" {
		t.Fatalf("greeting %q, %v", line, err)
	}
	fmt.Fprintln(c, "EHLO")
	if line, err := r.ReadString('\n'); line != "EHLO\n" {
		t.Fatalf("answer %q, %v", line, err)
	}
}

func TestUDPAnswers(t *testing.T) {
	m := start(t)
	c, err := net.Dial("udp", m.serve("echo", udpPort, echoUDP(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(c, "ping")
	b := make([]byte, 100)
	if n, err := c.Read(b); string(b[:n]) != "ping" {
		t.Fatalf("answer %q, %v", b[:n], err)
	}
}

func echoUDP(t *testing.T) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			if _, err := c.WriteTo(b[:n], from); err != nil {
				return
			}
		}
	}()
	return c.LocalAddr().String()
}
