// Package http2 serves HTTP/2 with prior knowledge, and speaks for HTTP/1 clients to endpoints that want HTTP/2 or TLS,
// by net/http's server and transports. Hosts, paths and bodies pass unchanged; hop-by-hop fields end here.
//
// A Server owns the goroutines of its connections; Run returns after they ended.
package http2

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
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

	HeaderTimeout  time.Duration // for a connection's settings; default 10 s
	IdleTimeout    time.Duration // between requests of a connection; default 60 s
	MaxHeaderBytes int           // of a request's head; default 64 KiB
	DrainIdle      time.Duration // how long connections without a request live on when draining; default 20 s
}

// Server serves connections.
type Server struct {
	config   Config
	http     *http.Server
	conns    *handover
	draining atomic.Bool
	open     atomic.Int64 // connections

	mu       sync.Mutex
	ended    bool           // guarded by mu
	handlers sync.WaitGroup // of requests; Add is guarded by mu
}

// New returns a Server.
func New(c Config) *Server {
	c.HeaderTimeout = cmp.Or(c.HeaderTimeout, 10*time.Second)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, time.Minute)
	c.MaxHeaderBytes = cmp.Or(c.MaxHeaderBytes, 64<<10)
	c.DrainIdle = cmp.Or(c.DrainIdle, 20*time.Second)
	s := &Server{config: c, conns: newHandover()}
	s.http = &http.Server{
		Handler:                      http.HandlerFunc(s.handle),
		DisableGeneralOptionsHandler: true, // OPTIONS * is for the backend
		ReadHeaderTimeout:            c.HeaderTimeout,
		IdleTimeout:                  c.IdleTimeout,
		MaxHeaderBytes:               max(c.MaxHeaderBytes-4096, 1), // net/http adds 4 KiB
		ConnContext:                  connContext,
		ConnState:                    s.connState,
		ErrorLog:                     log.New(errorLog{c.Mesh.Log}, "", 0),
		Protocols:                    new(http.Protocols),
		HTTP2: &http.HTTP2Config{
			// It takes sixteen streams that nobody reads to stall the others of their connection.
			MaxReceiveBufferPerConnection: connWindow,
			MaxReceiveBufferPerStream:     streamWindow,
			// A connection holds a buffer as long as the longest frame that came.
			MaxReadFrameSize: 16 << 10,
		},
	}
	s.http.Protocols.SetUnencryptedHTTP2(true)
	return s
}

// Serve takes over a connection that was accepted for b, of which begun, a part of the preface, was read, and that a
// counts until it ends; nil counts nothing. It waits for Run to take it.
func (s *Server) Serve(c net.Conn, begun []byte, b *route.Binding, a *share.Account) {
	if !s.conns.give(&conn{Conn: c, begun: begun, binding: b, share: a}) {
		a.Disconnect()
	}
}

// Run serves until ctx ends; all connections are closed then.
func (s *Server) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.http.Close() })
	defer stop()
	err := s.http.Serve(s.conns)
	<-ctx.Done() // Serve returns when draining begins; its connections go on
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.handlers.Wait()
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve http: %w", err)
	}
	return nil
}

// begin counts a request, unless all has ended.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.handlers.Add(1)
	}
	return !s.ended
}

// Drain asks all connections to end by a GOAWAY, those without a request after a while. It returns when all have ended,
// or cuts them when ctx ends and returns drain.ErrCut.
func (s *Server) Drain(ctx context.Context) error {
	s.draining.Store(true)
	idle := time.NewTimer(s.config.DrainIdle)
	defer idle.Stop()
	for wait := true; wait && s.open.Load() > 0; {
		poll := time.NewTimer(50 * time.Millisecond)
		select {
		case <-ctx.Done():
			wait = false
		case <-idle.C:
			wait = false
		case <-poll.C:
		}
		poll.Stop()
	}
	err := s.http.Shutdown(ctx)
	if err != nil {
		s.http.Close()
		return drain.ErrCut
	}
	return nil
}

// conn remembers what its listener stood for when it was accepted, and what was read of it.
type conn struct {
	net.Conn
	begun   []byte
	binding *route.Binding
	share   *share.Account // that it counts for
}

func (c *conn) Read(p []byte) (int, error) {
	if len(c.begun) == 0 {
		return c.Conn.Read(p) //nolint:wrapcheck // it is the connection
	}
	n := copy(p, c.begun)
	c.begun = c.begun[n:]
	return n, nil
}

type connKey struct{}

// client is the other end of a connection.
type client struct {
	exchange.Client
	uploads uploads
}

func connContext(ctx context.Context, c net.Conn) context.Context {
	info := &client{Client: exchange.NewClient(c, c.(*conn).binding, c.(*conn).share)}
	info.uploads.account = info.Share
	return context.WithValue(ctx, connKey{}, info)
}

func (s *Server) connState(c net.Conn, state http.ConnState) {
	n := 0
	switch state {
	case http.StateNew:
		n = 1
	case http.StateClosed:
		n = -1
		c.(*conn).share.Disconnect()
	}
	if n != 0 {
		s.open.Add(int64(n))
		s.config.Mesh.Meter.HTTPConnections(n)
	}
}

// handover is the listener that net/http takes connections from.
type handover struct {
	conns  chan net.Conn
	closed chan struct{}
	close  sync.Once
}

func newHandover() *handover {
	return &handover{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// give says whether the connection was taken. If not, it is closed.
func (h *handover) give(c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.closed:
		c.Close()
		return false
	}
}

func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

func (h *handover) Close() error {
	h.close.Do(func() { close(h.closed) })
	return nil
}

func (*handover) Addr() net.Addr { return &net.TCPAddr{} }

// errorLog turns net/http's messages into debug lines: they are about clients' mistakes.
type errorLog struct{ log *slog.Logger }

func (l errorLog) Write(p []byte) (int, error) {
	l.log.Debug("http server", "message", string(bytes.TrimSpace(p)))
	return len(p), nil
}
