package upstream

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/balance"
)

// identity is what makes an endpoint the same one: an address that another pod or workload got is another endpoint.
type identity struct {
	addr     netip.AddrPort
	pod      string
	workload string
	node     string
	host     bool // on the node's own network
	udp      bool
}

// Endpoint is one address that takes traffic, shared by all services that name it. It is safe for concurrent use.
type Endpoint struct {
	id      identity
	address string
	config  *Config
	set     *Set
	load    balance.Load
	health  balance.Health
	born    int64        // when it joined others; 0 = it was there from the beginning
	failed  atomic.Int64 // when a connect last failed, in nanoseconds since the set's start; 0 = never
	retired atomic.Bool  // takes nothing new from anybody: its idle connections are of no use
	gone    atomic.Bool  // named by nobody any more

	protected atomic.Bool
	reach     atomic.Int32          // a Reach
	avoid     atomic.Int64          // until when its node's proxy is passed by, since the set's start
	neighbour *neighbour            // the proxy of its node
	where     atomic.Pointer[Place] // never nil

	refs, ready int // groups that name it, and of these the ones that may pick it; guarded by the set's mutex

	direct Way

	mu   sync.Mutex
	ways map[wayKey]*Way // to another node; guarded by mu
}

// Address returns "ip:port".
func (e *Endpoint) Address() string { return e.address }

// AddrPort returns the address.
func (e *Endpoint) AddrPort() netip.AddrPort { return e.id.addr }

// Pod returns the name of the pod behind the address, empty if it is none.
func (e *Endpoint) Pod() string { return e.id.pod }

// Workload returns who is behind the address, "namespace/serviceaccount"; empty if nothing is known.
func (e *Endpoint) Workload() string { return e.id.workload }

// Protected says that there must be a policy for the workload.
func (e *Endpoint) Protected() bool { return e.protected.Load() }

// Gone says that no service names the endpoint any more.
func (e *Endpoint) Gone() bool { return e.gone.Load() }

// Begin counts a request, connection or flow that goes to the endpoint; the caller calls End after it.
func (e *Endpoint) Begin() { e.load.Begin() }

// End is the end of what Begin began.
func (e *Endpoint) End() {
	e.load.End()
	if e.retired.Load() {
		// The connection just went back to a pool that nobody takes from.
		e.closeIdle()
	}
}

// DialError is a failed connect: not a byte was sent.
type DialError struct {
	Address string
	Err     error
}

func (e *DialError) Error() string { return fmt.Sprintf("connect to %s: %v", e.Address, e.Err) }
func (e *DialError) Unwrap() error { return e.Err }

func (e *Endpoint) dial(ctx context.Context) (net.Conn, error) {
	network := "tcp"
	if e.id.udp {
		network = "udp"
	}
	d := net.Dialer{Timeout: e.config.ConnectTimeout}
	c, err := d.DialContext(ctx, network, e.address)
	if err != nil {
		if ctx.Err() == nil && !ownFault(err) {
			e.Failed()
		}
		return nil, &DialError{e.address, err}
	}
	e.failed.Store(0)
	return c, nil
}

// Failed puts the endpoint aside for a moment, as long as there are others, and counts as a fault.
func (e *Endpoint) Failed() {
	e.pass()
	e.Fault()
}

// pass puts the endpoint aside for a moment, as long as there are others.
func (e *Endpoint) pass() { e.failed.Store(e.config.now()) }

// Fault counts something that failed at the endpoint: a connect, an exchange that it broke off, an answer that says so.
// Some in a row eject it: it is set aside, as long as enough others are left.
func (e *Endpoint) Fault() {
	if e.health.Fail(e.config.now(), e.config.Ejection) {
		e.set.ejections.Add(1)
		e.set.changes.Add(1)
	}
}

// Answered counts something that went well. began is when the endpoint was asked, if how long it took says something
// about it, and zero otherwise.
func (e *Endpoint) Answered(began time.Time) {
	now := e.config.now()
	e.health.Succeed(now)
	if !began.IsZero() {
		e.load.Sample(now, now-e.config.at(began))
	}
}

// Ejected says that the endpoint is set aside now.
func (e *Endpoint) Ejected() bool { return e.health.Ejected(e.config.now()) }

// Pool carries HTTP requests to one endpoint over connections that it keeps.
type Pool interface {
	http.RoundTripper
	CloseIdleConnections()
}

type poolKey struct {
	protocol   HTTPProtocol
	serverName string
}

func keyOf(p HTTPProtocol, serverName string) poolKey {
	key := poolKey{protocol: p}
	if p == TLS || p == TLS1 {
		key.serverName = serverName
	}
	return key
}

// HTTP returns the pool for a protocol. serverName is asked for in TLS handshakes.
func (w *Way) HTTP(p HTTPProtocol, serverName string) Pool {
	key := keyOf(w.Protocol(p), serverName)
	w.mu.Lock()
	defer w.mu.Unlock()
	kept, ok := w.pools[key]
	if ok {
		if until := time.Duration(kept.until.Load()); until == 0 || w.endpoint.config.since() < until {
			return kept
		}
		kept.CloseIdleConnections() // what is under way on them goes on
	}
	kept = newPool(w, key)
	if w.pools == nil {
		w.pools = map[poolKey]*pool{}
	}
	w.pools[key] = kept
	return kept
}

func (e *Endpoint) closeIdle() {
	e.direct.closeIdle()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, w := range e.ways {
		w.closeIdle()
	}
}
