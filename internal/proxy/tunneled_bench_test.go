package proxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

// BenchmarkHop is what the tunnel between two nodes' proxies costs, against the same two proxies without TLS: a request
// for 1 KiB on a kept connection, and a new TCP connection with one exchange. All of it runs in this process.
func BenchmarkHop(b *testing.B) {
	answer := "HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n" + strings.Repeat("x", 1024)
	web := func(c net.Conn) {
		for r := bufio.NewReader(c); ; {
			if _, err := readHead(r); err != nil {
				return
			}
			if _, err := io.WriteString(c, answer); err != nil {
				return
			}
		}
	}
	say := func(c net.Conn) { _, _ = io.Copy(c, c) }
	for _, p := range []struct {
		name     string
		protocol configv1.Protocol
		serve    func(net.Conn)
		run      func(*testing.B, string)
	}{{"request", httpPort, web, requests}, {"connection", tcpPort, say, connections}} {
		b.Run(p.name+"/tunnel", func(b *testing.B) {
			c := newCluster(b, clusterOptions{})
			c.ready("node-b", c.b.listen)
			c.holds(c.a)
			front := c.expose("web", p.protocol, allow("shop/client", enforce, tcpRule), listenAt(b, webAt, p.serve))
			p.run(b, front)
			b.ReportMetric(c.a.metric("tulle_proxy_tunnel_client_handshakes_total")/float64(b.N), "handshakes/op")
		})
		b.Run(p.name+"/plain", func(b *testing.B) {
			c := newCluster(b, clusterOptions{})
			c.expose("web", p.protocol, nil, listenAt(b, openAt, p.serve))
			second := c.b.sockets.address(p.protocol, c.target)
			c.target++
			c.a.set("shop/hop", endpoints("hop", p.protocol, 80, second))
			c.a.set("shop/hop", service("hop", p.protocol, 80, c.target))
			p.run(b, c.a.sockets.address(p.protocol, c.target))
		})
	}
}

func requests(b *testing.B, front string) {
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		c, err := from(clientAt).Dial("tcp", front)
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		r := bufio.NewReader(c)
		for pb.Next() {
			if _, err := io.WriteString(c, "GET /a HTTP/1.1\r\nHost: web.shop.mesh\r\n\r\n"); err != nil {
				b.Error(err)
				return
			}
			resp, err := http.ReadResponse(r, nil)
			if err != nil || resp.StatusCode != 200 {
				b.Errorf("%v, %v", resp, err)
				return
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func connections(b *testing.B, front string) {
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		buffer := make([]byte, 1)
		for pb.Next() {
			c, err := from(clientAt).Dial("tcp", front)
			if err != nil {
				b.Error(err)
				return
			}
			if _, err := c.Write(buffer); err != nil {
				b.Error(err)
				return
			}
			if _, err := io.ReadFull(c, buffer); err != nil {
				b.Error(err)
				return
			}
			c.Close()
		}
	})
}
