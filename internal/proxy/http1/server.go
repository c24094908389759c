package http1

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/drain"
	"github.com/tulle-mesh/tulle/internal/proxy/exchange"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/share"
)

// Config is what a Server needs; the numbers' zero values mean the defaults.
type Config struct {
	Mesh *exchange.Mesh
	// HTTP2 takes over a connection that begins with HTTP/2's preface. begun is what was read of it.
	HTTP2 func(c net.Conn, begun []byte, b *route.Binding, a *share.Account)
	// Fallback forwards requests to endpoints that HTTP/1 in the clear is not spoken to. What was decided is in x, which
	// it completes but does not end.
	Fallback func(w http.ResponseWriter, r *http.Request, x *exchange.Exchange)

	HeaderTimeout  time.Duration // for a request's head; default 10 s
	IdleTimeout    time.Duration // between requests of a connection; default 60 s
	UpgradeIdle    time.Duration // of upgraded connections, for ports that don't say otherwise; default 1 h
	DrainIdle      time.Duration // how long connections without a request live on when draining; default 20 s
	MaxLine        int           // of a request's first line; default 8 KiB
	MaxHeaderBytes int           // of a request's head; default 64 KiB
	MaxFields      int           // of a request's head; default 200
}

// Server serves connections.
type Server struct {
	config   Config
	limits   Limits
	start    time.Time
	tick     time.Duration // how often sweep is called
	draining atomic.Bool
	upgraded drain.Active
	shedding atomic.Int64    // connections that Shed says good-bye to
	ctx      context.Context //nolint:containedctx // for connects; ends with Run
	cancel   context.CancelFunc

	mu      sync.Mutex
	ended   bool               // guarded by mu
	conns   map[*conn]struct{} // that are not upgraded; guarded by mu
	serving sync.WaitGroup     // Add is guarded by mu
}

// New returns a Server.
func New(c Config) *Server {
	c.HeaderTimeout = cmp.Or(c.HeaderTimeout, 10*time.Second)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, time.Minute)
	c.UpgradeIdle = cmp.Or(c.UpgradeIdle, time.Hour)
	c.DrainIdle = cmp.Or(c.DrainIdle, 20*time.Second)
	s := &Server{config: c, start: time.Now(), conns: map[*conn]struct{}{}}
	s.limits = Limits{
		Line: cmp.Or(c.MaxLine, 8<<10), Head: cmp.Or(c.MaxHeaderBytes, 64<<10), Fields: cmp.Or(c.MaxFields, 200),
	}
	s.tick = max(min(c.HeaderTimeout, c.IdleTimeout, 10*time.Second)/10, time.Millisecond)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Conn is a client's connection: a *net.TCPConn, or a tunnelled one. The latter has methods Reset, to be closed so that the
// client does not take it for an orderly end, and Connected, which says whether its client is still there.
type Conn interface {
	net.Conn
	CloseWrite() error
}

// spoil makes the end of a connection one that the client doesn't take for an orderly one.
func spoil(c Conn) {
	switch c := c.(type) {
	case *net.TCPConn:
		_ = c.SetLinger(0) // fails on a connection that is closed
	case interface{ Reset() }:
		c.Reset()
	}
}

// Serve takes over a connection that was accepted for b, and that a counts until it ends; nil counts nothing.
func (s *Server) Serve(tcp Conn, b *route.Binding, a *share.Account) {
	c := newConn(s, tcp, b, a)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		tcp.Close()
		a.Disconnect()
		return
	}
	s.conns[c] = struct{}{}
	s.config.Mesh.Meter.HTTPConnections(1)
	s.serving.Go(c.serve)
}

// leave takes a connection off the list of those that are served here.
func (s *Server) leave(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.conns[c]; ok {
		delete(s.conns, c)
		s.config.Mesh.Meter.HTTPConnections(-1)
	}
}

// Run serves until ctx ends; all connections are closed then.
func (s *Server) Run(ctx context.Context) error {
	tick := time.NewTicker(s.tick)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			s.sweep()
		}
	}
	s.cancel()
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.cut()
	s.upgraded.Cut()
	s.serving.Wait()
	return nil
}

// Drain asks all connections to end: the next answer says so. One without a request is closed only after a while, as a
// request may be on its way. It returns when all have ended, or cuts them when ctx ends and returns drain.ErrCut.
func (s *Server) Drain(ctx context.Context) error {
	s.draining.Store(true)
	idle := time.NewTimer(s.config.DrainIdle)
	defer idle.Stop()
	poll := time.NewTicker(min(s.config.DrainIdle, 50*time.Millisecond))
	defer poll.Stop()
	patient := true
	for s.open() > 0 {
		select {
		case <-ctx.Done():
			if s.cut() > 0 {
				_ = s.upgraded.Drain(ctx)
				return drain.ErrCut
			}
		case <-idle.C:
			patient = false
		case <-poll.C:
		}
		if !patient {
			s.closeIdle()
		}
	}
	return s.upgraded.Drain(ctx) //nolint:wrapcheck // one of our own
}

func (s *Server) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// each calls f for all connections.
func (s *Server) each(f func(*conn)) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		f(c)
	}
	return len(s.conns)
}

// cut ends all connections at once, and says how many there were. A close waits for the exchange that is under way, which ends
// soon as it was interrupted.
func (s *Server) cut() int {
	return s.each(func(c *conn) {
		c.interrupt(closed)
		s.serving.Go(func() { c.tcp.Close() })
	})
}

func (s *Server) closeIdle() { s.each(func(c *conn) { c.expire(phaseEnd) }) }

// sweep ends waits that have lasted too long or are for a client that has left, and requests whose client is gone.
func (s *Server) sweep() {
	now := s.now()
	s.each(func(c *conn) {
		p := c.phase.Load()
		switch {
		// Once or twice in a wait is enough: an end that comes later is told of.
		case p > 0 && now-p+int64(s.config.IdleTimeout) < 3*int64(s.tick) && c.left():
			c.expire(phaseEnd)
		case p > 0:
			c.expire(now)
		case p < 0 && p != expired && now+p > int64(time.Second) && !alive(c.tcp):
			c.interrupt(gone)
		}
	})
}

// now is the time since the server's start, and never 0.
func (s *Server) now() int64 { return s.at(time.Now()) }

// at is what now was, or will be, at a time.
func (s *Server) at(t time.Time) int64 { return int64(t.Sub(s.start)) + 1 }

// panicked counts and logs a panic that cost a connection.
func (s *Server) panicked(p any, stack []byte) {
	s.config.Mesh.Meter.Panicked("http")
	s.config.Mesh.Log.Error("panic in an http connection", "panic", p, "stack", string(stack))
}
