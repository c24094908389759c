package tunnel_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/proxy/tunnel"
)

// What a new link costs, both sides together.
func BenchmarkHandshake(b *testing.B) {
	m := newMesh(b)
	accept := func(s *tunnel.Stream) {
		if s.Accept() == nil {
			_ = s.CloseWrite()
		}
	}
	m.node("node-b", "127.0.0.3", options{handler: accept})
	from := m.node("node-a", "127.0.0.2", options{}, "web")
	svid, err := from.keeper.SVID(b.Context(), m.id("shop", "web"))
	if err != nil {
		b.Fatal(err)
	}
	config := &tls.Config{
		InsecureSkipVerify: true, Certificates: []tls.Certificate{*svid.Certificate}, NextProtos: []string{"tulle-tunnel/1"},
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := identity.Verify(cs.PeerCertificates, from.keeper.Bundle(), time.Now())
			return err
		},
	}
	for b.Loop() {
		raw, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: from.addr.AsSlice()}}).Dial("tcp", m.proxies("node-b")[0].String())
		if err != nil {
			b.Fatal(err)
		}
		c := tls.Client(raw, config)
		// A frame that is no preamble ends the link once the other side is through with the handshake.
		if _, err := c.Write([]byte{9, 0, 0}); err != nil {
			b.Fatal(err)
		}
		_, _ = c.Read(make([]byte, 1))
		c.Close()
	}
}

func BenchmarkConnection(b *testing.B) {
	api := listen(b, echo)
	m, from, _ := two(b, options{})
	for _, bc := range []struct {
		what string
		dial func() (net.Conn, error)
	}{
		{"plain", func() (net.Conn, error) { return net.Dial("tcp", api.String()) }},
		{"tunnel", func() (net.Conn, error) { return from.Dial(b.Context(), m.id("shop", "web"), "node-b", to(api)) }},
	} {
		b.Run(bc.what, func(b *testing.B) {
			for b.Loop() {
				c, err := bc.dial()
				if err == nil {
					err = exchange(c, "hello")
					c.Close()
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRequest(b *testing.B) {
	api := listen(b, echo)
	m, from, _ := two(b, options{})
	for _, size := range []int{1 << 10, 64 << 10} {
		text := string(bytes.Repeat([]byte("x"), size))
		for _, bc := range []struct {
			what string
			dial func() (net.Conn, error)
		}{
			{"plain", func() (net.Conn, error) { return net.Dial("tcp", api.String()) }},
			{"tunnel", func() (net.Conn, error) { return from.Dial(b.Context(), m.id("shop", "web"), "node-b", to(api)) }},
		} {
			b.Run(fmt.Sprintf("%s/%d", bc.what, size), func(b *testing.B) {
				c, err := bc.dial()
				if err != nil {
					b.Fatal(err)
				}
				defer c.Close()
				b.SetBytes(int64(2 * size))
				for b.Loop() {
					if err := exchange(c, text); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
