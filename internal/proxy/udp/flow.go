package udp

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/meter"
	"github.com/tulle-mesh/tulle/internal/proxy/policy"
	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// flow is one client and the endpoint that it talks to.
type flow struct {
	listener *listener
	key      key
	binding  *route.Binding
	endpoint *upstream.Endpoint
	conn     far // connected to the endpoint
	idle     time.Duration
	count    *meter.Flows
	last     atomic.Int64 // when a datagram passed last, since epoch
	once     sync.Once
	source   []byte // by which answers come from the address that the client sent to

	namespace string        // of the client; empty if nobody knows it
	place     *list.Element // among the server's flows; nil once it is out of them; guarded by the server's mutex
}

// far is a flow's connection to its endpoint. Who receives a datagram frees it.
type far interface {
	Write(b []byte) (int, error)
	SetReadDeadline(t time.Time) error
	Close() error
	receive() (*datagram, error)
}

// plain is a socket of the flow's own.
type plain struct {
	*net.UDPConn
	socket *socket
}

func (p plain) receive() (*datagram, error) { return p.socket.receive() }

// epoch makes times small numbers; only differences count.
var epoch = time.Now()

// begin starts a flow: now its backend and endpoint are decided.
func (l *listener) begin(k key) (*flow, *route.Port, refusal.Reason) {
	s := l.server
	binding := l.binding.Load()
	table := s.config.Table()
	port := table.Port(binding)
	if port == nil {
		return nil, nil, refusal.NoService
	}
	if s.stopped.Load() {
		return nil, port, refusal.Draining
	}
	call := policy.Call{Peer: policy.Peer{Address: k.client.Addr().Unmap()}, Port: port}
	backend, endpoint, conn, reason := s.connect(call)
	if reason != "" {
		return nil, port, reason
	}
	peers := meter.Peers{
		Namespace: port.Service.Namespace, Service: port.Service.Short, Port: port.Number, Backend: backend.Service,
	}
	if caller := table.Callers[k.client.Addr().Unmap()]; caller != nil {
		peers.SourceNamespace, peers.SourceWorkload = caller.Namespace, caller.Workload
	}
	f := &flow{
		listener: l, key: k, binding: binding, endpoint: endpoint, conn: conn,
		idle: cmp.Or(port.IdleTimeout, s.config.IdleTimeout), count: s.config.Meter.Flows(peers),
		namespace: peers.SourceNamespace, source: source(k.local),
	}
	call.Endpoint = endpoint
	unwatch, ok := s.config.Gate.Watch(call, f.close)
	if !ok {
		conn.Close()
		endpoint.End()
		return nil, port, refusal.NoPolicy
	}
	done, ok := s.active.Add(f.close)
	if !ok {
		unwatch()
		conn.Close()
		endpoint.End()
		return nil, port, refusal.Draining
	}
	f.touch()
	s.admit(f)
	l.mu.Lock()
	l.byKey[k] = f
	l.mu.Unlock()
	f.count.Total.Inc()
	f.count.Active.Inc()
	l.flows.Go(func() {
		defer done()
		defer unwatch()
		f.run()
	})
	return f, port, ""
}

// connect picks a backend, once, and an endpoint, if the caller may call it. The endpoint has begun.
func (s *Server) connect(call policy.Call) (*route.Backend, *upstream.Endpoint, far, refusal.Reason) {
	r := call.Port.Default()
	if r == nil {
		return nil, nil, nil, refusal.NoRoute
	}
	backend := r.Next()
	if backend == nil {
		return nil, nil, nil, refusal.NoBackend
	}
	e := backend.Endpoints.Pick()
	if e == nil {
		return nil, nil, nil, refusal.NoEndpoint
	}
	call.Endpoint = e
	if v := s.config.Gate.Judge(context.Background(), call); !v.Allow { // which waits for nothing
		return nil, nil, nil, refusal.Reason(v.Reason)
	}
	e.Begin()
	c, err := s.dial(backend, call)
	if err != nil {
		e.End()
		return nil, nil, nil, policy.Unreached(err)
	}
	return backend, e, c, ""
}

// dial connects to the call's endpoint. Nothing is sent and nothing waited for: what takes time, a tunnel, comes later.
func (s *Server) dial(b *route.Backend, call policy.Call) (far, error) {
	w := call.Endpoint.Direct()
	if !call.Endpoint.Near() {
		var err error
		w, err = call.Endpoint.Way(s.config.Gate.Caller(call.Peer), upstream.Use{Service: b.Service, Port: b.Port})
		if err != nil {
			return nil, err //nolint:wrapcheck // a DialError says it all
		}
	}
	if w.Tunnelled() {
		return s.join(w), nil
	}
	c, err := w.Dial(context.Background())
	if err != nil {
		return nil, err //nolint:wrapcheck // as above
	}
	p := plain{UDPConn: c.(*net.UDPConn)}
	if p.socket, err = newSocket(p.UDPConn); err != nil {
		c.Close()
		return nil, err
	}
	return p, nil
}

func (f *flow) touch() { f.last.Store(int64(time.Since(epoch))) }

// over says that the flow must not be used any more: its endpoint is gone, or its listener means another service.
func (f *flow) over() bool {
	return f.endpoint.Gone() || f.listener.binding.Load() != f.binding
}

// send passes a client's datagram on. It is false if the flow has ended and the datagram was not sent.
func (f *flow) send(payload []byte) bool {
	f.touch()
	if _, err := f.conn.Write(payload); err != nil {
		return !f.broken(err)
	}
	f.count.DatagramsIn.Inc()
	f.count.In.Add(float64(len(payload)))
	return true
}

// broken ends the flow after an error, unless that is about a single datagram. If nobody listens at the endpoint, others
// are preferred for a while, and the client's next datagram begins another flow.
func (f *flow) broken(err error) bool {
	if errors.Is(err, syscall.EMSGSIZE) || errors.Is(err, syscall.ENOBUFS) {
		return false
	}
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) {
		f.endpoint.Failed()
	}
	f.close()
	return true
}

func (f *flow) close() { f.once.Do(func() { f.conn.Close() }) }

// run passes the endpoint's answers on until the flow is idle, broken or closed.
func (f *flow) run() {
	s := f.listener.server
	defer func() {
		if p := recover(); p != nil {
			s.panicked(p)
		}
		f.close()
		f.listener.remove(f.key, f)
		s.dismiss(f)
		f.endpoint.End()
		f.count.Active.Dec()
	}()
	for late := true; ; {
		if late { // or just begun; what comes meanwhile doesn't move the deadline
			late = false
			left := f.idle - (time.Since(epoch) - time.Duration(f.last.Load()))
			if left <= 0 || f.conn.SetReadDeadline(time.Now().Add(left)) != nil {
				return
			}
		}
		d, err := f.conn.receive()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			late = true
		case err != nil:
			f.broken(err)
			return
		default:
			f.answer(d)
		}
	}
}

func (f *flow) answer(d *datagram) {
	defer d.free()
	f.touch()
	f.endpoint.Answered(time.Time{})
	f.count.DatagramsOut.Inc()
	f.count.Out.Add(float64(len(d.payload())))
	// An error is the loss of a datagram, which UDP allows.
	_ = f.listener.socket.send(d.payload(), f.key.client, f.source)
}
