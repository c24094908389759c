package proxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy"
)

// BenchmarkHTTP compares a keep-alive request for 1 KiB through the proxy with httputil.ReverseProxy and with no proxy.
// Client and backend are the same, small and raw, so that what differs is the proxy.
func BenchmarkHTTP(b *testing.B) {
	up := fixedAnswer(b, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n"+strings.Repeat("x", 1024))
	b.Run("direct", func(b *testing.B) { load(b, up) })
	b.Run("tulle", func(b *testing.B) { load(b, meshFor(b, up)) })
	b.Run("httputil", func(b *testing.B) {
		p := &httputil.ReverseProxy{
			Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: up}); r.SetXForwarded() },
			Transport: &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true},
		}
		s := httptest.NewServer(p)
		defer s.Close()
		load(b, s.Listener.Addr().String())
	})
}

func meshFor(b *testing.B, up string) string {
	b.Helper()
	s := newSockets()
	p := proxy.New(proxy.Config{Sockets: s})
	go func() {
		if err := p.Run(b.Context()); err != nil {
			b.Error(err)
		}
	}()
	e, err := configv1.NewResource("shop/web", endpoints("web", httpPort, 80, up))
	if err != nil {
		b.Fatal(err)
	}
	r, err := configv1.NewResource("shop/web", service("web", httpPort, 80, 20001))
	if err != nil {
		b.Fatal(err)
	}
	if refused := p.Apply(configv1.Update{Set: []configv1.Resource{e, r}}); len(refused) > 0 {
		b.Fatal(refused)
	}
	return s.address(httpPort, 20001)
}

// load makes b.N requests over parallel connections.
func load(b *testing.B, address string) {
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		c, err := net.Dial("tcp", address)
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		r := bufio.NewReader(c)
		for pb.Next() {
			if _, err := io.WriteString(c, "GET /a/path?q=1 HTTP/1.1\r\nHost: web.shop.mesh\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"); err != nil {
				b.Error(err)
				return
			}
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				b.Error(err)
				return
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func fixedAnswer(b *testing.B, answer string) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for {
					if _, err := readHead(r); err != nil {
						return
					}
					if _, err := io.WriteString(c, answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// BenchmarkApply is one service's change among 5,000.
func BenchmarkApply(b *testing.B) {
	p := proxy.New(proxy.Config{Sockets: newSockets()})
	u := manyServices(b, 5000)
	p.Apply(u)
	for i := 0; b.Loop(); i++ {
		p.Apply(configv1.Update{Set: u.Set[i%len(u.Set) : i%len(u.Set)+1]})
	}
}
