package udp

import (
	"container/list"

	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
)

// room is what flows there are, by the namespaces of their clients. It is guarded by the server's mutex.
type room struct {
	byNamespace map[string]*list.List // of *flow, those in front that were not looked at for longest; none is empty
	total       int
}

// admit notes a new flow, and makes room for it if there are too many.
func (s *Server) admit(f *flow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &s.room
	if r.total >= s.config.MaxFlows {
		s.evict(r.victim(f.namespace, s.config.MaxFlows))
	}
	l := r.byNamespace[f.namespace]
	if l == nil {
		l = list.New()
		r.byNamespace[f.namespace] = l
	}
	f.place = l.PushBack(f)
	r.total++
}

// victim is the flows of the namespace that has to give one up for another one: its own if it has its share of them, or
// the most.
func (r *room) victim(newcomer string, most int) *list.List {
	own := r.byNamespace[newcomer]
	if own != nil && own.Len() >= most/len(r.byNamespace) {
		return own
	}
	largest := own
	for _, l := range r.byNamespace {
		if largest == nil || l.Len() > largest.Len() {
			largest = l
		}
	}
	return largest
}

// sample is among how many flows the idlest is looked for when one has to go: enough to spare the busy ones, without
// ordering all of them on every datagram.
const sample = 32

// evict ends the idlest of the flows that were not looked at for longest.
func (s *Server) evict(from *list.List) {
	var idlest *flow
	for range min(sample, from.Len()) {
		e := from.Front()
		from.MoveToBack(e)
		if f := e.Value.(*flow); idlest == nil || f.last.Load() < idlest.last.Load() {
			idlest = f
		}
	}
	s.room.remove(idlest)
	s.config.Meter.Refused("udp", "", "", refusal.Evicted)
	idlest.close()
}

func (s *Server) dismiss(f *flow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.room.remove(f)
}

// remove forgets a flow, if it is there.
func (r *room) remove(f *flow) {
	if f.place == nil {
		return
	}
	l := r.byNamespace[f.namespace]
	l.Remove(f.place)
	f.place = nil
	r.total--
	if l.Len() == 0 {
		delete(r.byNamespace, f.namespace)
	}
}
