// Package upstream keeps what the proxy knows of endpoints: which ones a service has, which of them to pick, how they
// fared, and the connections that are pooled to them. All of it outlives config changes that don't concern it.
//
// A Set is changed by one goroutine at a time and read by any number. It has no goroutines of its own but those of
// net/http's pools, which end with their connections.
package upstream

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Config has the limits of connections to endpoints. The zero value means the defaults.
type Config struct {
	ConnectTimeout time.Duration // of a connect, and of a TLS handshake; default 3 s
	IdleTimeout    time.Duration // of a pooled connection; default 30 s
	MaxIdle        int           // pooled connections per endpoint; default 1,024
	Penalty        time.Duration // how long an endpoint that could not be connected to is passed over; default 1 s
	Tunnels        Tunnels       // needed once Reroute says that there are some

	start time.Time
}

func (c Config) since() time.Duration { return time.Since(c.start) + 1 }

// Key names the endpoints behind one port of a service.
type Key struct {
	Service string // "namespace/name", and "/pod" for the unit of one pod
	Port    uint32
	UDP     bool
}

// Set holds the endpoints of all services.
type Set struct {
	config Config

	mu        sync.Mutex
	groups    map[Key]*Group // guarded by mu
	services  map[string][]Key
	endpoints map[identity]*Endpoint
	reach     func(node string) Reach // nil = all directly
}

// NewSet returns an empty Set.
func NewSet(c Config) *Set {
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, 3*time.Second)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, 30*time.Second)
	c.MaxIdle = cmp.Or(c.MaxIdle, 1024)
	c.Penalty = cmp.Or(c.Penalty, time.Second)
	c.start = time.Now()
	return &Set{config: c, groups: map[Key]*Group{}, services: map[string][]Key{}, endpoints: map[identity]*Endpoint{}}
}

// Group is the endpoints behind one port of a service. It stays the same while they change, and is safe for concurrent
// use.
type Group struct {
	config  *Config
	members atomic.Pointer[members] // never nil
	turn    atomic.Uint32

	refs int // guarded by the set's mutex
}

// members is immutable.
type members struct {
	all   []*Endpoint
	ready []*Endpoint // those that may be picked
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
		g = &Group{config: &s.config}
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

// Pick returns the endpoint for something new, none of those already tried; nil if there is none. It takes turns, and
// of the next two in turn the one with less to do. Endpoints that could not be connected to a moment ago are taken
// only if there are no others.
func (g *Group) Pick(tried ...*Endpoint) *Endpoint {
	ready := g.members.Load().ready
	if len(ready) == 0 {
		return nil
	}
	var first, lastResort *Endpoint
	now := g.config.since()
	start := int(g.turn.Add(1)-1) % len(ready)
	for i := range ready {
		e := ready[(start+i)%len(ready)]
		switch {
		case slices.Contains(tried, e):
		case e.failing(now):
			if lastResort == nil {
				lastResort = e
			}
		case first == nil:
			first = e
		default:
			if e.inflight.Load() < first.inflight.Load() {
				return e
			}
			return first
		}
	}
	return cmp.Or(first, lastResort)
}

// Only is a group of one endpoint, for who has chosen already.
func Only(e *Endpoint) *Group {
	g := &Group{config: &e.config}
	g.members.Store(&members{all: []*Endpoint{e}, ready: []*Endpoint{e}})
	return g
}

// Len returns the number of endpoints that may be picked.
func (g *Group) Len() int { return len(g.members.Load().ready) }
