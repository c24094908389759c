// Package tcp carries TCP connections to endpoints: server-first protocols, half-closed connections and resets pass
// through as they are. A connection's goroutines are its own and end with it.
package tcp

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"runtime/debug"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/drain"
	"github.com/tulle-mesh/tulle/internal/proxy/meter"
	"github.com/tulle-mesh/tulle/internal/proxy/policy"
	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// maxAttempts bounds how many endpoints are tried for one connection.
const maxAttempts = 5

// Config is what a Server needs. IdleTimeout is for ports that don't say otherwise; default 1 h.
type Config struct {
	Table       func() *route.Table
	Gate        *policy.Gate
	Meter       *meter.Meter
	Log         *slog.Logger
	IdleTimeout time.Duration
}

// Server serves connections.
type Server struct {
	config Config
	active drain.Active
}

// New returns a Server.
func New(c Config) *Server {
	c.IdleTimeout = cmp.Or(c.IdleTimeout, time.Hour)
	return &Server{config: c}
}

// Serve carries one connection until it ends. It takes over conn.
func (s *Server) Serve(conn *net.TCPConn, b *route.Binding) {
	defer func() {
		if p := recover(); p != nil {
			s.config.Meter.Panicked("tcp")
			s.config.Log.Error("panic in a tcp connection", "service", b.Service, "panic", p, "stack", string(debug.Stack()))
			Reset(conn)
		}
	}()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done, ok := s.active.Add(func() { cancel(); Reset(conn) })
	if !ok {
		Reset(conn)
		return
	}
	defer done()

	table := s.config.Table()
	port := table.Port(b)
	if port == nil {
		s.refuse(conn, b, nil, refusal.NoService)
		return
	}
	call := policy.Call{Peer: peerOf(conn), Port: port}
	backend, endpoint, up, reason := s.connect(ctx, port, call)
	if reason != "" {
		s.refuse(conn, b, port, reason)
		return
	}
	defer endpoint.End()
	call.Endpoint = endpoint
	ended, ok := s.config.Gate.Watch(call, func() { Reset(conn); Reset(up) })
	if !ok {
		Reset(conn)
		Reset(up)
		return
	}
	defer ended()
	s.carry(conn, up, port, s.config.Meter.Connections(peers(table, conn.RemoteAddr(), port, backend)))
}

// connect picks a backend, once, and tries its endpoints until one takes the connection, as far as the caller may call
// them. The endpoint returned has begun.
func (s *Server) connect(ctx context.Context, port *route.Port, call policy.Call) (*route.Backend, *upstream.Endpoint, Conn, refusal.Reason) {
	r := port.Default()
	if r == nil {
		return nil, nil, nil, refusal.NoRoute
	}
	backend := r.Next()
	if backend == nil {
		return nil, nil, nil, refusal.NoBackend
	}
	var tried []*upstream.Endpoint
	failed := refusal.ConnectFailed
	for range maxAttempts {
		e := backend.Endpoints.Pick(tried...)
		if e == nil {
			break
		}
		if len(tried) > 0 {
			s.config.Meter.Retried()
		}
		call.Endpoint = e
		if v := s.config.Gate.Judge(ctx, call); !v.Allow {
			return nil, nil, nil, refusal.Reason(v.Reason)
		}
		e.Begin()
		c, err := s.dial(ctx, backend, call)
		if err == nil {
			e.Answered(time.Time{})
			return backend, e, c, ""
		}
		e.End()
		if denied, ok := errors.AsType[*upstream.DeniedError](err); ok {
			return nil, nil, nil, refusal.Reason(denied.Reason)
		}
		failed = policy.Unreached(err)
		s.config.Meter.ConnectFailed()
		s.config.Log.Debug("connect failed", "service", port.Service.Name, "err", err)
		tried = append(tried, e)
		if ctx.Err() != nil {
			return nil, nil, nil, refusal.Draining
		}
	}
	if len(tried) == 0 {
		return nil, nil, nil, refusal.NoEndpoint
	}
	return nil, nil, nil, failed
}

// dial connects to the call's endpoint. One that need not be protected is not given up for want of its node's proxy.
func (s *Server) dial(ctx context.Context, b *route.Backend, call policy.Call) (Conn, error) {
	e := call.Endpoint
	for again := true; ; again = false {
		w := e.Direct()
		if !e.Near() {
			var err error
			if w, err = e.Way(s.config.Gate.Caller(call.Peer), upstream.Use{Service: b.Service, Port: b.Port}); err != nil {
				return nil, err //nolint:wrapcheck // a DialError says it all
			}
		}
		c, err := w.Dial(ctx)
		if err == nil {
			return c.(Conn), nil
		}
		if !again || !w.Tunnelled() || !errors.Is(err, upstream.ErrUnreachable) || e.Protected() {
			return nil, err //nolint:wrapcheck // as above
		}
	}
}

func (s *Server) carry(client, up Conn, port *route.Port, count *meter.Connections) {
	count.Total.Inc()
	count.Active.Inc()
	defer count.Active.Dec()
	Pipe{
		Client: client, Upstream: up, Idle: cmp.Or(port.IdleTimeout, s.config.IdleTimeout),
		In: count.In.Add, Out: count.Out.Add,
	}.Run()
}

// refuse ends the connection with a reset, which a client can tell from a server that said nothing.
func (s *Server) refuse(conn *net.TCPConn, b *route.Binding, port *route.Port, r refusal.Reason) {
	Reset(conn)
	namespace, service := "", ""
	if port != nil {
		namespace, service = port.Service.Namespace, port.Service.Short
	}
	s.config.Meter.Refused("tcp", namespace, service, r)
	s.config.Log.Debug("connection refused", "service", b.Service, "reason", string(r))
}

// Drain waits until no connection is left, and resets those that are when ctx ends. Nothing new is served then.
func (s *Server) Drain(ctx context.Context) error { return s.active.Drain(ctx) }

// Cut resets all connections at once. Nothing new is served then.
func (s *Server) Cut() { s.active.Cut() }

func peerOf(c net.Conn) policy.Peer {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return policy.Peer{Address: a.AddrPort().Addr().Unmap()}
	}
	return policy.Peer{}
}

func peers(table *route.Table, client net.Addr, port *route.Port, backend *route.Backend) meter.Peers {
	p := meter.Peers{
		Namespace: port.Service.Namespace, Service: port.Service.Short, Port: port.Number, Backend: backend.Service,
	}
	if a, ok := client.(*net.TCPAddr); ok {
		if caller := table.Callers[a.AddrPort().Addr().Unmap()]; caller != nil {
			p.SourceNamespace, p.SourceWorkload = caller.Namespace, caller.Workload
		}
	}
	return p
}
