package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy/queue"
)

// Caller is the ServiceAccount that somebody calls as. The zero value is nobody.
type Caller struct{ Namespace, ServiceAccount string }

// Use is what an endpoint is called as. The proxy of its node judges by it, so that calls of different uses never share a
// connection to there.
type Use struct {
	Service      string // whose endpoint it is, the name of the Endpoints
	Port         uint32 // of the service
	HTTP         bool   // requests are judged one by one
	Scheme       configv1.Scheme
	EncodedSlash bool // the port that was called takes %2F in paths as it is
}

// Target is what a tunnel leads to, and for whom.
type Target struct {
	Use
	Caller  Caller
	Node    string
	Pod     string // "namespace/name"
	Address netip.AddrPort
	UDP     bool
}

// Tunnels lead to pods of other nodes, through the proxies there.
type Tunnels interface {
	// Dial makes a connection that belongs to the target's caller. Its errors are wrapped ones of this package, or others.
	Dial(ctx context.Context, t Target) (net.Conn, error)
	// Probe finds out whether the proxy of a node takes connections of a caller. It says so at once or later.
	Probe(c Caller, node string, done func(ok bool))
	// Holds says whether there is proof of who the caller is. It may wait a moment for it.
	Holds(c Caller) bool
	// Forget closes what waits for further connections of callers.
	Forget(gone func(Caller) bool)
	// Plain is told of calls to other nodes that go in the clear, and why.
	Plain(reason string)
}

// What may be wrong with a way to another node.
var (
	// ErrNoProxy says that the endpoint's node has no proxy that could judge who calls a protected workload.
	ErrNoProxy = errors.New("no proxy at the destination")
	// ErrNoProof says that there is no certificate by which the other node's proxy could know the caller.
	ErrNoProof = errors.New("no certificate of the caller")
	// ErrUnreachable says that the proxy of the endpoint's node did not take a connection.
	ErrUnreachable = errors.New("the proxy at the destination is out of reach")
	// ErrUnknownThere says that it did, and has not heard of the endpoint: it may have no controller.
	ErrUnknownThere = fmt.Errorf("%w for what it does not know", ErrUnreachable)
	// ErrEndpoint says that the proxy of the endpoint's node could not connect to the endpoint.
	ErrEndpoint = errors.New("the endpoint took no connection")
)

// DeniedError is the no of the destination's proxy, by its reason.
type DeniedError struct{ Reason string }

func (e *DeniedError) Error() string { return "denied by the destination's proxy: " + e.Reason }

// Reach says how the pods of a node are reached.
type Reach int32

// The ways there are.
const (
	Direct  Reach = iota // as they are
	Tunnel               // through the proxy there
	NoProxy              // there is none: protected ones not at all
	Plain                // as they are: the proxy there knows no tunnels, and calls so itself
)

// Reroute makes endpoints be reached as reach says of their nodes, now and after further updates. Nothing is known of
// the empty node.
func (s *Set) Reroute(reach func(node string) Reach) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reach = reach
	for _, e := range s.endpoints {
		s.locate(e)
	}
}

// locate decides how an endpoint is reached. What is no pod has no proxy to judge for it: the caller's does.
func (s *Set) locate(e *Endpoint) {
	r := Direct
	if s.reach != nil && e.id.pod != "" {
		if r = s.reach(e.id.node); r == Tunnel && e.id.host {
			r = NoProxy // the one there could not tell the pod from its neighbours
		}
	}
	if Reach(e.reach.Swap(int32(r))) != r {
		e.direct.kept.close() // who is reached otherwise is not to be called on these
	}
}

// Forget closes what waits for further calls of callers.
func (s *Set) Forget(gone func(Caller) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.endpoints {
		e.forget(gone)
	}
	if s.config.Tunnels != nil {
		s.config.Tunnels.Forget(gone)
	}
}

// Find returns an endpoint of a group by address and workload, also one that takes nothing new; nil if there is none.
func (s *Set) Find(k Key, addr netip.AddrPort, workload string) *Endpoint {
	s.mu.Lock()
	g := s.groups[k]
	s.mu.Unlock()
	if g == nil {
		return nil
	}
	for _, e := range g.members.Load().all {
		if e.id.addr == addr && e.id.workload == workload {
			return e
		}
	}
	return nil
}

// Way is how an endpoint is reached on behalf of somebody. What it keeps carries calls of the same caller and use only.
type Way struct {
	endpoint *Endpoint
	target   *Target // nil = directly, whoever calls

	kept      kept        // connections for HTTP/1
	queue     queue.Queue // of those who need one, if it is a tunnel's
	forgotten atomic.Bool // its caller has left the node: nothing is kept

	mu    sync.Mutex
	pools map[poolKey]*pool // of net/http; guarded by mu
}

// Tunnelled says that the way leads through the proxy of another node.
func (w *Way) Tunnelled() bool { return w.target != nil }

// Protocol is how HTTP is spoken on the way: what a pod wants is for the proxy of its own node to know.
func (w *Way) Protocol(p HTTPProtocol) HTTPProtocol {
	switch {
	case w.target == nil:
	case p == TLS:
		return H2C
	case p == TLS1:
		return HTTP1
	}
	return p
}

// avoidFor is how long an endpoint that need not be protected is called directly after its node's proxy was out of reach or
// did not know it. A proxy that was out of reach is tried then aside from any call.
const avoidFor = 10 * time.Second

// neighbour is another node's proxy, as far as calls depend on it that can do without it.
type neighbour struct {
	away    atomic.Bool
	next    atomic.Int64 // when to try it again, since the set's start
	probing atomic.Bool
}

func (n *neighbour) lost(now time.Duration) {
	n.next.Store(int64(now + avoidFor))
	n.away.Store(true)
}

// aside says that an endpoint that need not be protected is called directly for now.
func (e *Endpoint) aside(c Caller) bool {
	now, n := e.config.since(), e.neighbour
	if now < time.Duration(e.avoid.Load()) {
		return true
	}
	if !n.away.Load() {
		return false
	}
	if now >= time.Duration(n.next.Load()) && !n.probing.Swap(true) {
		e.config.Tunnels.Probe(c, e.id.node, func(ok bool) {
			if ok {
				n.away.Store(false)
			} else {
				n.lost(e.config.since())
			}
			n.probing.Store(false)
		})
	}
	return true
}

// wayKey is what makes calls alike.
type wayKey struct {
	caller Caller
	use    Use
}

// Near says that the endpoint is reached directly, whoever calls.
func (e *Endpoint) Near() bool { return Reach(e.reach.Load()) == Direct }

// Direct is the way without a tunnel.
func (e *Endpoint) Direct() *Way { return &e.direct }

// Tunnelled says that calls to the endpoint go through the proxy of its node, as far as they can be proven.
func (e *Endpoint) Tunnelled() bool { return Reach(e.reach.Load()) == Tunnel }

// barred says that nobody may call the endpoint: it is protected, and no proxy of its node could judge who calls.
func (e *Endpoint) barred() bool { return Reach(e.reach.Load()) == NoProxy && e.Protected() }

// Way returns the way for calls of somebody. Its errors are *DialErrors: nothing was sent.
func (e *Endpoint) Way(c Caller, u Use) (*Way, error) {
	switch Reach(e.reach.Load()) {
	case Direct:
		return &e.direct, nil
	case NoProxy:
		if e.barred() {
			return nil, &DialError{e.address, ErrNoProxy}
		}
		reason := "no-proxy"
		if e.id.host {
			reason = "host-network"
		}
		e.config.Tunnels.Plain(reason)
		return &e.direct, nil
	case Plain:
		e.config.Tunnels.Plain("no-identities")
		return &e.direct, nil
	case Tunnel:
	}
	if !e.Protected() {
		reason := ""
		switch {
		case c == Caller{}:
			reason = "no-identity"
		case !e.config.Tunnels.Holds(c):
			reason = "no-certificate"
		case e.aside(c):
			reason = "unreachable"
		}
		if reason != "" {
			e.config.Tunnels.Plain(reason)
			return &e.direct, nil
		}
	}
	return e.way(wayKey{c, u}), nil
}

func (e *Endpoint) way(k wayKey) *Way {
	e.mu.Lock()
	defer e.mu.Unlock()
	w := e.ways[k]
	if w == nil {
		namespace, _, _ := strings.Cut(e.id.workload, "/")
		w = &Way{endpoint: e, target: &Target{
			Use: k.use, Caller: k.caller, Node: e.id.node, Pod: namespace + "/" + e.id.pod, Address: e.id.addr, UDP: e.id.udp,
		}}
		if e.ways == nil {
			e.ways = map[wayKey]*Way{}
		}
		e.ways[k] = w
	}
	return w
}

func (e *Endpoint) forget(gone func(Caller) bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for k, w := range e.ways {
		if gone(k.caller) {
			delete(e.ways, k)
			w.forgotten.Store(true)
			w.closeIdle()
		}
	}
}

// Dial connects. Its errors are *DialError; unless ctx ended they put the endpoint aside for a moment. What is wrong on
// the way there says nothing of the endpoint itself, and is no fault of its.
func (w *Way) Dial(ctx context.Context) (net.Conn, error) {
	e := w.endpoint
	if w.target == nil {
		return e.dial(ctx)
	}
	c, err := e.config.Tunnels.Dial(ctx, *w.target)
	if err == nil {
		e.failed.Store(0)
		e.neighbour.away.Store(false)
		return c, nil
	}
	switch {
	case ctx.Err() != nil, errors.Is(err, ErrNoProof), errors.As(err, new(*DeniedError)):
	case errors.Is(err, ErrEndpoint):
		e.Failed()
	case errors.Is(err, ErrUnknownThere) && !e.Protected():
		e.avoid.Store(int64(e.config.since() + avoidFor))
	case errors.Is(err, ErrUnreachable) && !e.Protected():
		e.neighbour.lost(e.config.since())
	default:
		e.pass()
	}
	return nil, &DialError{e.address, err}
}

func (w *Way) closeIdle() {
	w.kept.close()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.pools {
		p.CloseIdleConnections()
	}
}
