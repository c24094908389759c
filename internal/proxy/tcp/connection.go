package tcp

import (
	"cmp"
	"context"
	"net"
	"runtime/debug"
	"slices"
	"sync/atomic"

	"github.com/tulle-mesh/tulle/internal/proxy/policy"
	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
)

// connection is one that is served. It belongs to the goroutine that begins it, and then to the Pipe.
type connection struct {
	server  *Server
	client  *net.TCPConn
	binding *route.Binding
	ends    []func() // to be called when it is over, the last one first

	beyond atomic.Pointer[func()] // ends what is beyond the client's end: dialing first, the endpoint's end then
}

// begin gets a connection to where it is carried. It is false if it has been refused instead.
func (c *connection) begin() bool {
	s := c.server
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dialing := (func())(cancel)
	c.beyond.Store(&dialing)
	done, ok := s.active.Add(c.cut)
	if !ok {
		Reset(c.client)
		return false
	}
	c.ends = append(c.ends, done)
	table := s.config.Table()
	port := table.Port(c.binding)
	if port == nil {
		s.refuse(c.client, c.binding, nil, refusal.NoService)
		return false
	}
	call := policy.Call{Peer: peerOf(c.client), Port: port}
	backend, endpoint, up, reason := s.connect(ctx, port, call)
	if reason != "" {
		s.refuse(c.client, c.binding, port, reason)
		return false
	}
	connected := func() { Reset(up) }
	c.beyond.Store(&connected)
	c.ends = append(c.ends, endpoint.End)
	call.Endpoint = endpoint
	unwatch, ok := s.config.Gate.Watch(call, c.cut)
	if !ok {
		c.cut()
		return false
	}
	count := s.config.Meter.Connections(peers(table, c.client.RemoteAddr(), port, backend))
	count.Total.Inc()
	count.Active.Inc()
	c.ends = append(c.ends, unwatch, count.Active.Dec)
	Pipe{
		Client: c.client, Upstream: up, Idle: cmp.Or(port.IdleTimeout, s.config.IdleTimeout),
		In: count.In.Add, Out: count.Out.Add,
	}.Start(c.ended)
	return true
}

// cut ends the connection at once. Should it be connected just then, who carries it finds the client gone.
func (c *connection) cut() {
	Reset(c.client)
	if stop := c.beyond.Load(); stop != nil {
		(*stop)()
	}
}

// ended is called when nothing is carried any more.
func (c *connection) ended(p *Panic) {
	if p != nil {
		c.panicked(p.Value, p.Stack)
	}
	for _, f := range slices.Backward(c.ends) {
		f()
	}
}

// recover ends a connection that could not be begun for a bug.
func (c *connection) recover() {
	if p := recover(); p != nil {
		c.cut()
		c.ended(&Panic{p, debug.Stack()})
	}
}

func (c *connection) panicked(value any, stack []byte) {
	c.server.config.Meter.Panicked("tcp")
	c.server.config.Log.Error("panic in a tcp connection", "service", c.binding.Service, "panic", value, "stack", string(stack))
}
