//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"
)

// serveBackend gives everybody the same answer, or back what they sent, with as little work as can be.
func serveBackend(ctx context.Context, s spec) error {
	if s.Protocol == "udp" {
		return echoDatagrams(ctx)
	}
	l, err := listen(ctx)
	if err != nil {
		return err
	}
	reply := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", s.Size, strings.Repeat("x", s.Size))
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			if s.Protocol == "tcp" {
				// Until the client ends it; without the pipes that io.Copy would hold.
				_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
				return
			}
			answerAll(c, reply)
		}()
	}
}

func answerAll(c net.Conn, reply []byte) {
	r := bufio.NewReader(c)
	leave := false
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		if bytes.EqualFold(line, []byte("Connection: close\r\n")) {
			leave = true
		}
		if len(line) > 2 {
			continue
		}
		if _, err := c.Write(reply); err != nil || leave {
			return
		}
	}
}

func echoDatagrams(ctx context.Context) error {
	c, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(c.LocalAddr())
	b := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return err
		}
		if _, err := c.WriteTo(b[:n], from); err != nil {
			return err
		}
	}
}

func serveHTTPUtil(ctx context.Context, s spec) error {
	l, err := listen(ctx)
	if err != nil {
		return err
	}
	p := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: s.Up}); r.SetXForwarded() },
		Transport: &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true},
	}
	return (&http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second}).Serve(l)
}

func listen(ctx context.Context) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err == nil {
		fmt.Println(l.Addr())
	}
	return l, err
}
