// Package udp carries datagrams in flows: all that one client address sends to one address of a listener goes to the
// same endpoint, over a socket of the flow's own, until the flow has been idle for a while. Which backend gets a flow
// is decided when it begins.
//
// A listener is read by one goroutine and every flow by another; Serve returns after those of its flows ended.
package udp

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/drain"
	"github.com/tulle-mesh/tulle/internal/proxy/meter"
	"github.com/tulle-mesh/tulle/internal/proxy/policy"
	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// Config is what a Server needs; the numbers' zero values mean the defaults.
type Config struct {
	Table       func() *route.Table
	Gate        *policy.Gate
	Meter       *meter.Meter
	Log         *slog.Logger
	IdleTimeout time.Duration // for ports that don't say otherwise; default 30 s
	MaxFlows    int           // at a time, of all listeners; default 8,192
}

// Server serves datagrams.
type Server struct {
	config  Config
	active  drain.Active
	stopped atomic.Bool

	carrying sync.WaitGroup // of muxes

	mu    sync.Mutex
	room  room                   // guarded by mu
	muxes map[*upstream.Way]*mux // guarded by mu
}

// New returns a Server.
func New(c Config) *Server {
	c.IdleTimeout = cmp.Or(c.IdleTimeout, 30*time.Second)
	c.MaxFlows = cmp.Or(c.MaxFlows, 8192)
	return &Server{config: c, room: room{byNamespace: map[string]*list.List{}}, muxes: map[*upstream.Way]*mux{}}
}

// StopAccepting makes the Server begin no more flows.
func (s *Server) StopAccepting() { s.stopped.Store(true) }

// Drain waits until no flow is left, and ends those that are when ctx ends.
func (s *Server) Drain(ctx context.Context) error {
	s.StopAccepting()
	return s.active.Drain(ctx)
}

// Cut ends all flows at once.
func (s *Server) Cut() {
	s.active.Cut()
	s.carrying.Wait()
}

// key is what makes datagrams belong together.
type key struct {
	client netip.AddrPort
	local  netip.Addr // that the client sent to; not valid if the socket has one address only
}

// listener is one socket and its flows.
type listener struct {
	server  *Server
	conn    *net.UDPConn
	binding *atomic.Pointer[route.Binding]
	socket  *socket
	flows   sync.WaitGroup

	mu    sync.Mutex
	byKey map[key]*flow // guarded by mu
}

// Serve reads conn until it is closed, and ends its flows then: their answers can't be sent without it. binding says
// what the socket stands for.
func (s *Server) Serve(conn *net.UDPConn, binding *atomic.Pointer[route.Binding]) {
	l := &listener{server: s, conn: conn, binding: binding, byKey: map[key]*flow{}}
	defer l.end()
	var err error
	if l.socket, err = newSocket(conn); err != nil {
		s.config.Log.Error("udp socket unusable", "address", conn.LocalAddr().String(), "err", err)
		return
	}
	for l.receive() {
	}
}

// end ends all flows and waits for them.
func (l *listener) end() {
	l.mu.Lock()
	for _, f := range l.byKey {
		f.close()
	}
	l.mu.Unlock()
	l.flows.Wait()
}

// receive handles one datagram; it is false when the socket is closed. A panic costs the datagram.
func (l *listener) receive() (more bool) {
	d, err := l.socket.receive()
	if err != nil {
		return !errors.Is(err, net.ErrClosed)
	}
	defer func() {
		if p := recover(); p != nil {
			l.server.panicked(p)
			more = true
		}
	}()
	defer d.free()
	l.forward(d)
	return true
}

func (s *Server) panicked(p any) {
	s.config.Meter.Panicked("udp")
	s.config.Log.Error("panic in a udp flow", "panic", p, "stack", string(debug.Stack()))
}

// forward sends a client's datagram to the endpoint of its flow, which begins with it if there is none.
func (l *listener) forward(d *datagram) {
	k := key{d.from, d.to}
	l.mu.Lock()
	f := l.byKey[k]
	l.mu.Unlock()
	if f != nil {
		if !f.over() && f.send(d.payload()) {
			return
		}
		f.close()
		l.remove(k, f)
	}
	f, port, reason := l.begin(k)
	if reason != "" {
		l.refuse(port, reason)
		return
	}
	f.send(d.payload())
}

func (l *listener) refuse(port *route.Port, r refusal.Reason) {
	namespace, service := "", ""
	if port != nil {
		namespace, service = port.Service.Namespace, port.Service.Short
	}
	l.server.config.Meter.Refused("udp", namespace, service, r)
}

// remove takes a flow out of the listener, if it is still the one of its key.
func (l *listener) remove(k key, f *flow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byKey[k] == f {
		delete(l.byKey, k)
	}
}
