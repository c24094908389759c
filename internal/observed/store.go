package observed

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/access"
)

// Limits bound a Store. Zero means the default.
type Limits struct {
	Calls     int // kinds of calls of all peers together; default 10,000
	PeerCalls int // kinds of calls between two peers on a port; default 256
}

// Store records calls. What it has no room for is counted and forgotten.
type Store struct {
	limits Limits
	since  time.Time
	lost   atomic.Uint64

	mu    sync.RWMutex
	edges map[key]*edge // guarded by mu
	size  int           // kinds of calls in all edges; guarded by mu
}

// NewStore returns an empty Store, which begins to record now.
func NewStore(l Limits, now time.Time) *Store {
	l.Calls, l.PeerCalls = cmp.Or(l.Calls, 10_000), cmp.Or(l.PeerCalls, 256)
	return &Store{limits: l, since: now, edges: map[key]*edge{}}
}

// Seen is one call, as the one who judged it knows it.
type Seen struct {
	From     access.Identity // zero if nobody knows
	To       string          // "namespace/serviceaccount"
	Service  string          // "namespace/name"
	Port     uint32
	Protocol string          // "http", "tcp" or "udp"
	Request  *access.Request // nil = no HTTP
	Reason   access.Reason   // why no rule allows it; empty if one does
}

// key is Peers without a new string for each call.
type key struct {
	from        access.Identity
	to, service string
	port        uint32
	protocol    string
}

type edge struct {
	calls map[kindOfCall]*count // guarded by the Store's mu
	lost  atomic.Uint64
}

type kindOfCall struct {
	method, path string
	reason       access.Reason
	past         bool
}

type count struct {
	n     atomic.Uint64
	first time.Time
	last  atomic.Int64 // Unix, in nanoseconds
}

func (c *count) add(now time.Time) {
	c.n.Add(1)
	c.last.Store(now.UnixNano())
}

// Record counts a call. Of callers without an identity it keeps no requests: they could be anybody's, and are never
// proposed. A kind of call that is known costs no memory, unless its path needs decoding.
func (s *Store) Record(c Seen, now time.Time) {
	k := key{c.From, c.To, c.Service, c.Port, c.Protocol}
	var buf [maxPath]byte
	method, path := "", buf[:0]
	if c.Request != nil && c.From != (access.Identity{}) {
		method, path = c.Request.Method, appendPattern(path, c.Request.Path, c.Request.EncodedSlash)
		if !isMethod(method) {
			method = Other
		}
	}
	s.mu.RLock()
	if e := s.edges[k]; e != nil {
		if n := e.calls[kindOfCall{method, string(path), c.Reason, false}]; n != nil {
			n.add(now)
			s.mu.RUnlock()
			return
		}
	}
	s.mu.RUnlock()
	// A request's strings are valid as long as the request only.
	s.insert(k, kindOfCall{strings.Clone(method), string(path), c.Reason, false}, now)
}

func (s *Store) insert(k key, call kindOfCall, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.edges[k]
	if e != nil && e.calls[call] != nil {
		e.calls[call].add(now)
		return
	}
	switch {
	case e == nil && s.size >= s.limits.Calls:
		s.lost.Add(1)
		return
	case e == nil:
		e = &edge{calls: map[kindOfCall]*count{}}
		s.edges[k] = e
	case s.size >= s.limits.Calls || len(e.calls) >= s.limits.PeerCalls:
		e.lost.Add(1)
		return
	}
	n := &count{first: now}
	n.add(now)
	e.calls[call] = n
	s.size++
}

// Outdate marks as past what was judged by the policies of workloads: they have others now, or none.
func (s *Store) Outdate(workload func(name string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, e := range s.edges {
		if !workload(k.to) {
			continue
		}
		for call, n := range e.calls {
			if call.past {
				continue
			}
			delete(e.calls, call)
			call.past = true
			if old := e.calls[call]; old != nil {
				old.n.Add(n.n.Load())
				old.last.Store(max(old.last.Load(), n.last.Load()))
				s.size--
				continue
			}
			e.calls[call] = n
		}
	}
}

// Report returns what was recorded of the peers that want accepts, in a stable order; a nil want accepts all.
func (s *Store) Report(now time.Time, want func(Peers) bool) Report {
	r := Report{Since: s.since, Until: now, Lost: s.lost.Load(), Edges: []Edge{}}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for k, e := range s.edges {
		out := Edge{Peers: Peers{To: k.to, Service: k.service, Port: k.port, Protocol: k.protocol}, Lost: e.lost.Load()}
		if k.from != (access.Identity{}) {
			out.From = k.from.String()
		}
		if want != nil && !want(out.Peers) {
			continue
		}
		for c, n := range e.calls {
			out.Calls = append(out.Calls, Call{c.method, c.path, c.reason, c.past, n.n.Load(), n.first, time.Unix(0, n.last.Load())})
		}
		slices.SortFunc(out.Calls, compareCalls)
		r.Edges = append(r.Edges, out)
	}
	slices.SortFunc(r.Edges, func(a, b Edge) int { return a.compare(b.Peers) })
	return r
}

func (p Peers) compare(o Peers) int {
	return cmp.Or(
		cmp.Compare(p.To, o.To), cmp.Compare(p.From, o.From), cmp.Compare(p.Service, o.Service),
		cmp.Compare(p.Port, o.Port), cmp.Compare(p.Protocol, o.Protocol),
	)
}

func compareCalls(a, b Call) int {
	past := func(c Call) int {
		if c.Past {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Method, b.Method), cmp.Compare(a.Reason, b.Reason), cmp.Compare(past(a), past(b)))
}
