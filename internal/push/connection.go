package push

import (
	"cmp"
	"slices"
	"sync"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

// Connection is one proxy's stream.
type Connection struct {
	Peer  Peer
	Since time.Time
	// Version is of the config that the proxy should have now, Acked of the one that it last confirmed ("" = none yet):
	// it is up to date if they are equal. Refused resources count as confirmed.
	Version string
	Acked   string
	// Waiting is since when the proxy owes an answer; zero if it owes none.
	Waiting time.Time
	// Refusals are the resources that it could not use, by key.
	Refusals []configv1.Refusal
}

// Connections returns the proxies that are connected to this replica, by pod name, the oldest stream first.
func (s *Server) Connections() []Connection {
	list := s.streams.list()
	out := make([]Connection, 0, len(list))
	current := s.current.Load()
	for _, st := range list {
		c := *st.state.Load()
		c.Version = current.version(c.Peer.Pod)
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Connection) int {
		return cmp.Or(cmp.Compare(a.Peer.Pod, b.Peer.Pod), a.Since.Compare(b.Since))
	})
	return out
}

// Refusals returns what proxies that are connected to this replica refuse, by their pods' names.
func (s *Server) Refusals() map[string][]configv1.Refusal {
	out := map[string][]configv1.Refusal{}
	for _, c := range s.Connections() {
		if len(c.Refusals) > 0 {
			out[c.Peer.Pod] = c.Refusals // of two streams, the newer one's
		}
	}
	return out
}

// streams is the set of open streams.
type streams struct {
	mu sync.Mutex
	m  map[*stream]struct{}
}

// add admits a stream. If its peer has too many, the oldest is told to end: a proxy that comes back knows better than
// the server that its old connection is dead.
func (s *streams) add(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var oldest *stream
	n := 0
	for other := range s.m {
		if other.peer.UID != st.peer.UID || closed(other.replaced) {
			continue
		}
		n++
		if oldest == nil || other.since.Before(oldest.since) {
			oldest = other
		}
	}
	if n >= streamsPerPeer {
		close(oldest.replaced)
	}
	s.m[st] = struct{}{}
}

func (s *streams) remove(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.m, st)
}

func (s *streams) list() []*stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*stream, 0, len(s.m))
	for st := range s.m {
		out = append(out, st)
	}
	return out
}
