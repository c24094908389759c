package upstream

import (
	"context"
	"io"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/socket"
)

// Conn is a connection to an endpoint that carries one HTTP/1 exchange at a time. It belongs to who took it.
type Conn struct {
	net.Conn
	Kept bool // it has carried an exchange before
	key  poolKey

	raw   syscall.RawConn
	plain *socket.Conn  // nil if there is TLS on it, or a tunnel
	since time.Duration // when it became idle, since the set's start
	until time.Duration // when it can't be used any more; 0 = never
	quiet bool          // found by peek
	peek  func(fd uintptr) bool
}

// kept are idle connections.
type kept struct {
	mu    sync.Mutex
	conns []*Conn // the one that was used last comes last; guarded by mu
	timer *time.Timer
	armed bool
}

// farIdle is how long a connection through another proxy may be idle and be used again. One that is about to end closes
// those that have been idle for 20 s, and must not do so while a request is on its way that can't be sent twice.
const farIdle = 15 * time.Second

// Take returns an idle connection, the one that was used last; nil if there is none.
func (w *Way) Take(p HTTPProtocol, serverName string) *Conn {
	if w.target == nil {
		return w.take(keyOf(p, serverName))
	}
	for key := keyOf(w.Protocol(p), serverName); ; {
		c := w.take(key)
		if c == nil {
			return nil
		}
		if now := w.endpoint.config.since(); (c.until == 0 || now < c.until) && now < c.since+farIdle {
			return c
		}
		c.Close()
	}
}

func (w *Way) take(key poolKey) *Conn {
	w.kept.mu.Lock()
	defer w.kept.mu.Unlock()
	list := w.kept.conns
	for i, c := range slices.Backward(list) {
		if c.key == key {
			copy(list[i:], list[i+1:])
			list[len(list)-1] = nil
			w.kept.conns = list[:len(list)-1]
			return c
		}
	}
	return nil
}

// Open makes a new connection for HTTP/1. Where that is costly and others are being made, one that spare finds may be free
// before: spare returns one that is kept, or nil, and is nil if only a new one will do. Open's errors are *DialError.
func (w *Way) Open(ctx context.Context, p HTTPProtocol, serverName string, spare func() *Conn) (*Conn, error) {
	if w.target != nil && spare != nil {
		var c *Conn
		if w.queue.Enter(ctx, func() bool { c = spare(); return c != nil }) {
			return c, nil
		}
		defer w.queue.Done()
	}
	p = w.Protocol(p)
	out := &Conn{key: keyOf(p, serverName)}
	if p == TLS1 {
		e := w.endpoint
		c, raw, err := e.shakeHands(ctx, e.tlsConfig(serverName, "http/1.1"))
		if err != nil {
			return nil, err
		}
		out.Conn = c
		return out.watched(raw), nil
	}
	c, err := w.Dial(ctx)
	if err != nil {
		return nil, err
	}
	out.Conn = c
	out.until = w.endpoint.usableUntil(c)
	return out.watched(c), nil
}

func (c *Conn) watched(raw net.Conn) *Conn {
	// Without it the connection counts as closed as soon as it is idle.
	if s, ok := raw.(syscall.Conn); ok {
		c.raw, _ = s.SyscallConn()
	}
	if _, ok := c.Conn.(*net.TCPConn); ok && c.raw != nil {
		c.plain = socket.New(c.raw)
	}
	c.peek = func(fd uintptr) bool {
		c.quiet = socket.Quiet(fd)
		return true
	}
	return c
}

// Quiet says that the other end has neither closed the connection nor said something, as far as is known here.
func (c *Conn) Quiet() bool {
	c.quiet = false
	if ahead, ok := c.Conn.(interface{ Buffered() int }); ok && ahead.Buffered() > 0 {
		return false
	}
	return c.raw != nil && c.raw.Read(c.peek) == nil && c.quiet
}

// Plain is the socket, for one goroutine at a time: the quickest way, if there is nothing between it and the connection. It is
// nil if there is.
func (c *Conn) Plain() *socket.Conn { return c.plain }

// Out is what a request is written to.
func (c *Conn) Out() io.Writer {
	if c.plain != nil {
		return c.plain
	}
	return c.Conn
}

// Keep gives back a connection that is ready for another exchange.
func (w *Way) Keep(c *Conn) {
	if !w.keep(c) {
		c.Close()
		return
	}
	w.queue.Freed()
}

func (w *Way) keep(c *Conn) bool {
	e, k := w.endpoint, &w.kept
	k.mu.Lock()
	defer k.mu.Unlock()
	if e.retired.Load() || w.forgotten.Load() || len(k.conns) >= e.config.MaxIdle {
		return false
	}
	c.Kept, c.since = true, e.config.since()
	k.conns = append(k.conns, c)
	if !k.armed {
		k.armed = true
		if k.timer == nil {
			k.timer = time.AfterFunc(e.reapEvery(), w.reap)
		} else {
			k.timer.Reset(e.reapEvery())
		}
	}
	return true
}

func (e *Endpoint) reapEvery() time.Duration { return max(e.config.IdleTimeout/4, time.Millisecond) }

// reap closes connections that were idle for too long, or that the endpoint has closed.
func (w *Way) reap() {
	e, k := w.endpoint, &w.kept
	k.mu.Lock()
	defer k.mu.Unlock()
	now := e.config.since()
	still := k.conns[:0]
	for _, c := range k.conns {
		if now-c.since < e.config.IdleTimeout && c.Quiet() {
			still = append(still, c)
		} else {
			c.Close()
		}
	}
	clear(k.conns[len(still):])
	k.conns = still
	if k.armed = len(still) > 0; k.armed {
		k.timer.Reset(e.reapEvery())
	}
}

func (k *kept) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.conns {
		c.Close()
	}
	clear(k.conns)
	k.conns = k.conns[:0]
}
