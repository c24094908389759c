// Package upstream keeps what the proxy knows of endpoints: which ones a service has, which of them to pick, how they
// fared, and the connections that are pooled to them. All of it outlives config changes that don't concern it.
//
// A Set is changed by one goroutine at a time and read by any number. It has no goroutines of its own but those of
// net/http's pools, which end with their connections.
package upstream

import (
	"cmp"
	"sync"
	"sync/atomic"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy/balance"
)

// Config has the limits of connections to endpoints. The zero value means the defaults.
type Config struct {
	ConnectTimeout time.Duration // of a connect, and of a TLS handshake; default 3 s
	IdleTimeout    time.Duration // of a pooled connection; default 30 s
	MaxIdle        int           // pooled connections per endpoint; default 1,024
	Penalty        time.Duration // how long an endpoint that could not be connected to is passed over; default 1 s
	Tunnels        Tunnels       // needed once Reroute says that there are some

	// Ejection says when endpoints that fail are set aside; default 5 failures in a row, 10 s that double up to 5 minutes.
	// Negative Failures: never.
	Ejection balance.Rules
	// MaxEjected is how many of a group's endpoints may be ejected at a time, in percent; default 50, negative: none.
	MaxEjected int
	// SlowStart is how long an endpoint that is new among others, or back from an ejection, gets fewer turns; default 10 s,
	// negative: not at all.
	SlowStart time.Duration

	start time.Time
}

// since is the time since the set was made. It is never 0.
func (c *Config) since() time.Duration { return time.Since(c.start) + 1 }

// now and at are the same as package balance wants it.
func (c *Config) now() int64 { return int64(c.since()) }

func (c *Config) at(t time.Time) int64 { return int64(t.Sub(c.start)) + 1 }

func (c Config) withDefaults() Config {
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, 3*time.Second)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, 30*time.Second)
	c.MaxIdle = cmp.Or(c.MaxIdle, 1024)
	c.Penalty = cmp.Or(c.Penalty, time.Second)
	c.Ejection.Failures = cmp.Or(c.Ejection.Failures, 5)
	c.Ejection.Least = cmp.Or(c.Ejection.Least, 10*time.Second)
	c.Ejection.Most = cmp.Or(c.Ejection.Most, 5*time.Minute)
	c.MaxEjected = cmp.Or(c.MaxEjected, 50)
	c.SlowStart = cmp.Or(c.SlowStart, 10*time.Second)
	c.start = time.Now()
	return c
}

// Key names the endpoints behind one port of a service.
type Key struct {
	Service string // "namespace/name", and "/pod" for the unit of one pod
	Port    uint32
	UDP     bool
}

// Set holds the endpoints of all services.
type Set struct {
	config    Config
	changes   atomic.Uint64 // of what groups choose by, besides their members
	ejections atomic.Uint64
	place     atomic.Pointer[Place] // of the proxy; nil = unknown

	mu        sync.Mutex
	groups    map[Key]*Group // guarded by mu
	services  map[string][]Key
	endpoints map[identity]*Endpoint
	reach     func(node string) Reach // nil = all directly
	nodes     map[string]*neighbour   // by name; those of nodes that are gone stay, as few as they are
}

// NewSet returns an empty Set.
func NewSet(c Config) *Set {
	return &Set{
		config: c.withDefaults(), groups: map[Key]*Group{}, services: map[string][]Key{}, endpoints: map[identity]*Endpoint{},
		nodes: map[string]*neighbour{},
	}
}

// neighbour returns the proxy of a node. The set's mutex is held.
func (s *Set) neighbour(node string) *neighbour {
	n := s.nodes[node]
	if n == nil {
		n = &neighbour{}
		s.nodes[node] = n
	}
	return n
}

// Group is the endpoints behind one port of a service. It stays the same while they change, and is safe for concurrent
// use.
type Group struct {
	set     *Set
	members atomic.Pointer[members] // never nil
	view    atomic.Pointer[view]    // of the members; nil before the first Pick
	turn    atomic.Uint32

	refs int // guarded by the set's mutex
}

// members is immutable.
type members struct {
	all    []*Endpoint
	ready  []*Endpoint // those that may be picked
	prefer configv1.Prefer
}

// Group returns the group of a key, empty as long as nothing is known of its endpoints. The caller calls Drop when it
// needs it no more.
func (s *Set) Group(k Key) *Group {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.take(k)
}

// Drop gives back what Group returned.
func (s *Set) Drop(k Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(k)
}

func (s *Set) take(k Key) *Group {
	g, ok := s.groups[k]
	if !ok {
		g = &Group{set: s}
		g.members.Store(&members{})
		s.groups[k] = g
	}
	g.refs++
	return g
}

func (s *Set) drop(k Key) {
	g, ok := s.groups[k]
	if !ok {
		return
	}
	if g.refs--; g.refs == 0 {
		s.assign(g, &members{})
		delete(s.groups, k)
	}
}

// Only is a group of one endpoint, for who has chosen already.
func Only(e *Endpoint) *Group {
	g := &Group{set: e.set}
	g.members.Store(&members{all: []*Endpoint{e}, ready: []*Endpoint{e}})
	return g
}

// Len returns the number of endpoints that may be picked.
func (g *Group) Len() int { return len(g.members.Load().ready) }
