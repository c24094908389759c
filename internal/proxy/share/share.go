// Package share divides what a node's proxy can serve at a time among the namespaces of its clients. As long as there is
// enough nobody is refused anything. When there isn't, those are refused who have more than their share: the limit
// divided by the number of namespaces that use something.
//
// Those who have less than their share are let in even then, so that one namespace can't keep others out: in all there may
// be up to twice the limit.
//
// The CPU has no limit: namespaces take turns at it.
//
// Everything is safe for concurrent use.
package share

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/turn"
)

// Config are the limits of a node; 0 means none.
type Config struct {
	Connections int // of clients, at a time
	Requests    int // of HTTP, under way at a time
	Rate        int // new connections per second
	Bytes       int // of bodies on their way, that are buffered at a time
}

// Node is what there is.
type Node struct {
	connections, requests, bytes pool

	rounds  *turn.Rounds
	accepts *turn.Queue

	mu       sync.Mutex
	accounts map[string]*Account // by namespace; guarded by mu
	rate     rate                // guarded by mu
}

// New returns a Node of which nothing is in use.
func New(c Config) *Node {
	rounds := turn.New(turn.Config{})
	return &Node{
		rounds: rounds, accepts: rounds.Uncounted(),
		connections: pool{limit: int64(c.Connections)}, requests: pool{limit: int64(c.Requests)},
		bytes: pool{limit: int64(c.Bytes)}, rate: rate{limit: c.Rate}, accounts: map[string]*Account{},
	}
}

// Account is what a namespace uses. Nil is one without limits.
type Account struct {
	node      *Node
	namespace string
	turns     *turn.Queue

	connections, requests, bytes atomic.Int64

	second int64 // of the node's rate that recent counts; guarded by the node's mu, as recent
	recent int
}

// Account returns the account of a namespace; all clients that nobody knows have one, by the empty name.
func (n *Node) Account(namespace string) *Account {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := n.accounts[namespace]
	if a == nil {
		a = &Account{node: n, namespace: namespace, turns: n.rounds.Queue()}
		n.accounts[namespace] = a
	}
	return a
}

// EachTenant calls f for each namespace that uses something, with what it uses now, in any order.
func (n *Node) EachTenant(f func(namespace string, connections, requests, bytes int64)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range n.accounts {
		if c, r, b := a.connections.Load(), a.requests.Load(), a.bytes.Load(); c != 0 || r != 0 || b != 0 {
			f(a.namespace, c, r, b)
		}
	}
}

// EachWait calls f for each namespace, with how long its requests have waited for turns, together, in any order.
func (n *Node) EachWait(f func(namespace string, waited time.Duration)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range n.accounts {
		f(a.namespace, a.turns.Waited())
	}
}

// TurnToAccept waits until another connection may be accepted. Whose it is nobody knows yet.
func (n *Node) TurnToAccept() { n.accepts.Begin() }

// Close gives up what turns need. Nobody has to wait for long afterwards.
func (n *Node) Close() { n.rounds.Close() }

// TurnToBegin waits until it is the namespace's turn to begin something that takes CPU.
func (a *Account) TurnToBegin() {
	if a != nil {
		a.turns.Begin()
	}
}

// TurnToGoOn waits until it is the namespace's turn to go on with what it has begun.
func (a *Account) TurnToGoOn() {
	if a != nil {
		a.turns.GoOn()
	}
}

// Connect says whether the namespace may have another connection now, for which the caller calls Disconnect later.
func (a *Account) Connect(now time.Time) bool {
	return a == nil || a.node.admit(a, now) && a.node.connections.take(&a.connections, 1)
}

// Disconnect is the end of a connection.
func (a *Account) Disconnect() {
	if a != nil {
		a.node.connections.give(&a.connections, 1)
	}
}

// Begin says whether the namespace may have another request under way, for which the caller calls End later.
func (a *Account) Begin() bool { return a == nil || a.node.requests.take(&a.requests, 1) }

// End is the end of a request.
func (a *Account) End() {
	if a != nil {
		a.node.requests.give(&a.requests, 1)
	}
}

// Buffer says whether the namespace may have n more bytes buffered, for which the caller calls Release later.
func (a *Account) Buffer(n int64) bool { return a == nil || a.node.bytes.take(&a.bytes, n) }

// Release is the end of n buffered bytes.
func (a *Account) Release(n int64) {
	if a != nil {
		a.node.bytes.give(&a.bytes, n)
	}
}

// pool is something that there is a limited number of.
type pool struct {
	limit  int64
	total  atomic.Int64
	active atomic.Int64 // accounts that have some
}

func (p *pool) take(account *atomic.Int64, n int64) bool {
	if n == 0 {
		return true // who has nothing is not active by it
	}
	mine := account.Add(n)
	if mine == n {
		p.active.Add(1)
	}
	if p.total.Add(n) <= p.limit || p.limit <= 0 || mine <= p.limit/max(p.active.Load(), 1) {
		return true
	}
	p.give(account, n)
	return false
}

func (p *pool) give(account *atomic.Int64, n int64) {
	if n == 0 {
		return
	}
	p.total.Add(-n)
	if account.Add(-n) == 0 {
		p.active.Add(-1)
	}
}

// rate counts what begins in a second.
type rate struct {
	limit  int
	second int64
	total  int
	active int // accounts that began something
}

func (n *Node) admit(a *Account, now time.Time) bool {
	if n.rate.limit <= 0 {
		return true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	r := &n.rate
	if second := now.Unix(); second != r.second {
		r.second, r.total, r.active = second, 0, 0
	}
	if a.second != r.second {
		a.second, a.recent = r.second, 0
		r.active++
	}
	if r.total >= r.limit && a.recent >= r.limit/r.active {
		return false
	}
	r.total++
	a.recent++
	return true
}
