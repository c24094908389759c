package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/share"
)

// mostBuffered is the limit of these tests: a stream that is behind both ways may hold 576 KiB.
const mostBuffered = 2 << 20

// unwilling is an endpoint that takes no bodies, and whose answers have no end, until it is told to let go of its streams.
type unwilling struct {
	address string
	release chan struct{}
	begun   atomic.Int64
}

func newUnwilling(t *testing.T) *unwilling {
	t.Helper()
	u := &unwilling{release: make(chan struct{})}
	s := httptest.NewUnstartedServer(u)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Config.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10, MaxReceiveBufferPerConnection: 64 << 10}
	s.Start()
	t.Cleanup(s.Close)
	u.address = s.Listener.Addr().String()
	return u
}

func (u *unwilling) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.begun.Add(1)
	switch r.URL.Path {
	case "/takes-nothing":
		<-u.release
		_, _ = io.Copy(io.Discard, r.Body)
	case "/never-ends":
		for r.Context().Err() == nil {
			select {
			case <-u.release:
				return
			default:
				_, _ = w.Write(make([]byte, 8<<10)) // until there is nobody to write to
			}
		}
	case "/trickles":
		<-u.release
		fmt.Fprint(w, "at last")
	default:
		_, _ = io.Copy(w, r.Body)
	}
}

// h2cClientAs is a client in a namespace that speaks HTTP/2 and takes little ahead.
func h2cClientAs(t *testing.T, namespace string) *http.Transport {
	t.Helper()
	tr := h2cClient(t)
	tr.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 16 << 10}
	if namespace == "greedy" {
		tr.DialContext = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).DialContext
	}
	return tr
}

// endless is a body of zeros that ends when it is closed.
type endless struct{ context.Context }

func (e endless) Read(p []byte) (int, error) {
	if e.Err() != nil {
		return 0, io.EOF
	}
	clear(p)
	return len(p), nil
}

// ending is how a stream ended whose answer is read from when unread is closed: "503 over-share", "200", or "reset".
func ending(c http.RoundTripper, method, url string, body io.Reader, unread <-chan struct{}) string {
	r, err := http.NewRequestWithContext(context.Background(), method, url, body)
	if err != nil {
		return err.Error()
	}
	resp, err := c.RoundTrip(r)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	<-unread
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return "reset"
	}
	return strings.TrimSpace(fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("tulle-reason")))
}

func (m *mesh) buffered(namespace string) float64 {
	m.t.Helper()
	return m.metric("tulle_proxy_tenant_buffered_bytes", "source_namespace", namespace)
}

func TestBytesOverTheShareAreShed(t *testing.T) {
	const streams = 40
	read := make(chan struct{})
	close(read)
	for _, test := range []struct {
		name, path, method string
		scheme             configv1.Scheme
		want               string // of those that there is no room for
	}{
		{"bodies that nobody reads", "/takes-nothing", http.MethodPost, configv1.Scheme_SCHEME_H2C, "503 over-share"},
		{"answers that nobody reads", "/never-ends", http.MethodGet, configv1.Scheme_SCHEME_H2C, "reset"},
		{"answers of HTTP/1 that nobody reads", "/never-ends", http.MethodGet, configv1.Scheme_SCHEME_HTTP, "reset"},
	} {
		t.Run(test.name, func(t *testing.T) {
			most := mostBuffered
			if test.scheme == configv1.Scheme_SCHEME_HTTP {
				most /= 4 // there is less of each
			}
			m := start(t, func(c *proxy.Config) { c.Share = share.Config{Bytes: most} })
			m.tenants()
			u := newUnwilling(t)
			front := "http://" + m.serveScheme("web", test.scheme, u.address)
			// The endpoint has one connection, and what it does not read holds up all of that.
			other := "http://" + m.serveScheme("other", test.scheme, backend(t, tell))
			sending, stop := context.WithCancel(t.Context())
			body := func() io.Reader {
				if test.method == http.MethodPost {
					return endless{sending}
				}
				return nil
			}
			unread, ended := make(chan struct{}), make(chan string, streams+1)
			end := sync.OnceFunc(func() {
				stop()
				close(u.release)
				close(unread)
			})
			defer end()
			open := func(namespace string, n int) {
				c := h2cClientAs(t, namespace)
				for range n {
					go func() { ended <- ending(c, test.method, front+test.path, body(), unread) }()
				}
			}
			open("greedy", streams)
			refused := func() float64 {
				return m.metric("tulle_proxy_refusals_total", "protocol", "http", "service", "web", "reason", "over-share")
			}
			var before float64
			eventually(t, func() error {
				before = refused()
				if b := m.buffered("greedy"); b < float64(most)*2/3 || b > float64(most) || before == 0 {
					return fmt.Errorf("%v bytes, %v streams refused", b, before)
				}
				return nil
			})
			// Another namespace is served, and may be as slow as within its share.
			modest := h2cClientAs(t, "modest")
			if got := ending(modest, http.MethodPost, other, strings.NewReader("quick"), read); got != "200" {
				t.Errorf("another namespace: %s", got)
			}
			open("modest", 1)
			eventually(t, func() error {
				if b := m.buffered("modest"); b == 0 {
					return fmt.Errorf("%v bytes of another namespace", b)
				}
				return nil
			})
			end()
			endings := map[string]int{}
			for range streams + 1 {
				select {
				case e := <-ended:
					endings[e]++
				case <-time.After(20 * time.Second):
					t.Fatalf("not all streams end: %v", endings)
				}
			}
			if endings["200"]+endings[test.want] != streams+1 || float64(endings[test.want]) < before {
				t.Errorf("%v, %v of them refused before", endings, before)
			}
			eventually(t, func() error {
				if b := m.metric("tulle_proxy_tenant_buffered_bytes"); b != 0 {
					return fmt.Errorf("%v bytes are left", b)
				}
				return nil
			})
		})
	}
}

// A stream that waits holds nothing, in whatever direction.
func TestWaitingIsNotBuffering(t *testing.T) {
	m := start(t)
	m.tenants()
	u := newUnwilling(t)
	front := "http://" + m.serveScheme("web", configv1.Scheme_SCHEME_H2C, u.address)
	r, w := io.Pipe()
	read, ended := make(chan struct{}), make(chan string, 2)
	close(read)
	c := h2cClientAs(t, "greedy")
	go func() { ended <- ending(c, http.MethodPost, front+"/echo", r, read) }()
	go func() { ended <- ending(c, http.MethodGet, front+"/trickles", nil, read) }()
	for range 3 {
		if _, err := w.Write(make([]byte, 100_000)); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error {
			if b := m.buffered("greedy"); b != 0 || u.begun.Load() != 2 {
				return fmt.Errorf("%v bytes, %d requests", b, u.begun.Load())
			}
			return nil
		})
	}
	w.Close()
	close(u.release)
	for range 2 {
		if got := <-ended; got != "200" {
			t.Error(got)
		}
	}
}

// What a caller sends to another node counts on both, for its namespace, with what is kept to be sent again.
func TestBytesCountOnBothNodes(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	u := newUnwilling(t)
	release := sync.OnceFunc(func() { close(u.release) })
	defer release()
	w := listenAt(t, webAt, func(in net.Conn) { relay(t, in, u.address) })
	c.expose("web", httpPort, allow("shop/client", enforce, tcpRule), w)
	s := service("web", httpPort, 80, c.target)
	s.GetPorts()[0].GetRoutes()[0].GetBackends()[0].Scheme = configv1.Scheme_SCHEME_H2C
	c.publish("shop/web", s)
	front := "http://" + c.a.sockets.address(httpPort, c.target)
	small, large := httpFrom(t, clientAt, true), httpFrom(t, clientAt, true)
	sending, stop := context.WithCancel(t.Context())
	defer stop()
	kept, w2 := io.Pipe()
	defer w2.Close()
	read, ended := make(chan struct{}), make(chan string, 2)
	close(read)
	go func() { ended <- ending(small.Transport, http.MethodPost, front+"/echo", kept, read) }()
	if _, err := w2.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	buffered := func(n *farNode, want func(float64) bool) func() error {
		return func() error {
			if b := n.metric("tulle_proxy_tenant_buffered_bytes", "source_namespace", "shop"); !want(b) {
				return fmt.Errorf("%s counts %v bytes", n.name, b)
			}
			return nil
		}
	}
	eventually(t, buffered(c.a, func(b float64) bool { return b == 1000 }))
	go func() {
		ended <- ending(large.Transport, http.MethodPost, front+"/takes-nothing", endless{sending}, read)
	}()
	for _, n := range []*farNode{c.a, c.b} {
		eventually(t, buffered(n, func(b float64) bool { return b > 256<<10 }))
	}
	stop()
	w2.Close()
	release()
	for range 2 {
		if got := <-ended; got != "200" {
			t.Error(got)
		}
	}
	for _, n := range []*farNode{c.a, c.b} {
		eventually(t, buffered(n, func(b float64) bool { return b == 0 }))
	}
}
