package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"
)

// target is what load calls: http://host/path, tcp://host:port, banner://host:port, udp://host:port or dns://name.
type target struct {
	kind string
	addr string // host and port, or the name to look up
	url  string
}

func parseTarget(s string) (target, error) {
	u, err := url.Parse(s)
	if err != nil {
		return target{}, err
	}
	switch u.Scheme {
	case "http":
		return target{"http", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "80")), s}, nil
	case "tcp", "banner", "udp", "dns":
		return target{u.Scheme, u.Host, s}, nil
	}
	return target{}, fmt.Errorf("%s: want http, tcp, banner, udp or dns", s)
}

// caller keeps the connection of its last HTTP call.
type caller struct {
	addr string
	conn net.Conn
	r    *bufio.Reader
	used int
}

func (t target) call(ctx context.Context, c *caller, g *generator) outcome {
	ctx, cancel := context.WithTimeout(ctx, g.flags.timeout)
	defer cancel()
	s := streamFlags{timeout: g.flags.timeout, send: "hello", target: t.addr}
	switch t.kind {
	case "dns":
		_, err := net.DefaultResolver.LookupHost(ctx, t.addr)
		return outcome{err: err}
	case "udp":
		conn, err := s.dial(ctx, "udp", t.addr)
		if err != nil {
			return outcome{err: err}
		}
		defer conn.Close()
		return s.udpOnce(conn)
	case "http":
		o := c.http(ctx, t, g)
		if o.err != nil {
			c.close()
		}
		return o
	}
	return s.tcpOnce(ctx, t.kind == "banner")
}

// http sends one request, never twice: net/http's client would repeat it when a kept connection turns out to be closed.
// Like every client it does not use a connection of which it knows that it is closed.
func (c *caller) http(ctx context.Context, t target, g *generator) outcome {
	if c.conn != nil && (c.addr != t.addr || c.used >= g.perConn || peerClosed(c.conn)) {
		c.close()
	}
	if c.conn == nil {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.addr)
		if err != nil {
			return outcome{err: shorten(err)}
		}
		*c = caller{addr: t.addr, conn: conn, r: bufio.NewReader(conn)}
	}
	c.used++
	deadline, _ := ctx.Deadline()
	if err := c.conn.SetDeadline(deadline); err != nil {
		return outcome{err: err}
	}
	req, err := g.flags.request(ctx, t.url)
	if err != nil {
		return outcome{err: err}
	}
	req.Close = c.used >= g.perConn
	if err := req.Write(c.conn); err != nil {
		return outcome{err: fmt.Errorf("%w (request %s on its connection)", shorten(err), ordinal(c.used))}
	}
	res, err := http.ReadResponse(c.r, req)
	if err != nil {
		return outcome{err: fmt.Errorf("%w (request %s on its connection)", shorten(err), ordinal(c.used))}
	}
	o := read(res)
	if res.Close {
		c.close()
	}
	return o
}

func ordinal(n int) string {
	if n == 1 {
		return "one"
	}
	return "two or later"
}

func (c *caller) close() {
	if c.conn != nil {
		c.conn.Close()
	}
	*c = caller{}
}

// peerClosed looks at the socket without waiting: an idle connection with something to read is over.
func peerClosed(c net.Conn) bool {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil || c.SetDeadline(time.Time{}) != nil {
		return true
	}
	closed := false
	err = raw.Read(func(fd uintptr) bool {
		_, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		closed = !errors.Is(err, syscall.EAGAIN)
		return true
	})
	return closed || err != nil
}
