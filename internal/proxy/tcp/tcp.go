// Package tcp carries TCP connections to endpoints: server-first protocols, half-closed connections and resets pass
// through as they are. A connection has two goroutines, one for each direction, which end with it.
package tcp

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
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

// Serve connects a connection to an endpoint, or ends it, and leaves the rest to goroutines of the connection's own. It
// takes over conn, and calls over when that has ended.
//
// It is for a goroutine that ends with it: what is done here makes a stack grow, and one that has grown stays so while its
// goroutine waits. Most connections are idle most of the time, and what they hold meanwhile is to be small.
func (s *Server) Serve(conn *net.TCPConn, b *route.Binding, over func()) {
	c := &connection{server: s, client: conn, binding: b, ends: []func(){over}}
	defer c.recover()
	if !c.begin() {
		c.ended(nil)
	}
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
