package upstream

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy/balance"
)

// Place is where a proxy or an endpoint is. Empty strings mean that it isn't known.
type Place struct{ Node, Zone string }

// Locate says where the proxy is, which decides what is near.
func (s *Set) Locate(p Place) {
	if old := s.place.Swap(&p); old == nil || *old != p {
		s.changes.Add(1)
	}
}

// Ejections is how many ejections of endpoints there were.
func (s *Set) Ejections() uint64 { return s.ejections.Load() }

// Ejected is how many endpoints are ejected now.
func (s *Set) Ejected() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, e := range s.endpoints {
		if e.Ejected() {
			n++
		}
	}
	return n
}

// view is what a group chooses from at present. It is immutable.
type view struct {
	members *members
	changes uint64 // of the set, when it was made
	until   int64  // when it is out of date, as an endpoint is back from an ejection; 0 = never

	pool []*Endpoint // ready and not ejected
	near []*Endpoint // those of the pool that are preferred
	// keep says how much of the traffic the near ones take, of 2^32. The rest goes to all of the pool.
	keep uint64
}

const all = 1 << 32

// current returns the view as it is now. Whoever finds it out of date makes the next one: two may do so at once.
func (g *Group) current(now int64) *view {
	v, changes := g.view.Load(), g.set.changes.Load()
	if v == nil || v.members != g.members.Load() || v.changes != changes || v.until != 0 && now >= v.until {
		v = newView(g.members.Load(), changes, now, g.set.config.MaxEjected, g.set.place.Load())
		g.view.Store(v)
	}
	return v
}

func newView(m *members, changes uint64, now int64, maxEjected int, place *Place) *view {
	v := &view{members: m, changes: changes, pool: m.ready}
	out := slices.DeleteFunc(slices.Clone(m.ready), func(e *Endpoint) bool { return !e.health.Ejected(now) })
	if len(out) > 0 {
		slices.SortFunc(out, func(a, b *Endpoint) int { return cmp.Compare(b.health.Until(), a.health.Until()) })
		v.until = out[len(out)-1].health.Until()
		// If too many are ejected, those whose ejection ends first are in use all the same.
		out = out[:min(len(out), len(m.ready)*max(0, min(maxEjected, 100))/100)]
		v.pool = slices.DeleteFunc(slices.Clone(m.ready), func(e *Endpoint) bool { return slices.Contains(out, e) })
	}
	if place != nil {
		v.prefer(place)
	}
	return v
}

// prefer finds out which endpoints are near, and how much they can take: no more than their share of all, if every zone
// (or node) that has endpoints sends as much as the others.
func (v *view) prefer(here *Place) {
	switch v.members.prefer {
	case configv1.Prefer_PREFER_NODE:
		v.near = v.at(func(p *Place) bool { return here.Node != "" && p.Node == here.Node })
		v.keep = all // whoever asks for the same node says that each has what it needs
		if len(v.near) == 0 {
			v.preferZone(here)
		}
	case configv1.Prefer_PREFER_ZONE:
		v.preferZone(here)
	case configv1.Prefer_PREFER_NONE:
	}
}

func (v *view) preferZone(here *Place) {
	v.near = v.at(func(p *Place) bool { return here.Zone != "" && p.Zone == here.Zone })
	zones := map[string]bool{}
	for _, e := range v.members.ready {
		zones[e.where.Load().Zone] = true
	}
	v.keep = min(all, all*uint64(len(v.near)*len(zones))/uint64(max(len(v.pool), 1)))
}

func (v *view) at(near func(*Place) bool) []*Endpoint {
	var out []*Endpoint
	for _, e := range v.pool {
		if near(e.where.Load()) {
			out = append(out, e)
		}
	}
	return out
}

// Pick is PickAt now.
func (g *Group) Pick(tried ...*Endpoint) *Endpoint { return g.PickAt(time.Now(), tried...) }

// PickAt returns the endpoint for something new, none of those already tried; nil if there is none. Of two endpoints, the
// one whose turn it is and one by chance, it takes the better one by what is under way there and how long that takes.
// Endpoints that could not be connected to a moment ago, protected ones without a proxy that could judge who calls, and
// ejected ones are taken only if there are no others.
func (g *Group) PickAt(at time.Time, tried ...*Endpoint) *Endpoint {
	now := g.set.config.at(at)
	v := g.current(now)
	if len(v.members.ready) == 0 {
		return nil
	}
	p := pick{group: g, now: now, random: rand.Uint64(), tried: tried} //nolint:gosec // no secret
	pool := v.pool
	if len(v.near) > 0 && (v.keep == all || p.random&(all-1) < v.keep) {
		pool = v.near
	}
	if e := p.from(pool); e != nil {
		return e
	}
	if e := p.from(v.pool); e != nil {
		return e
	}
	return p.any(v.members.ready)
}

// pick is one choice.
type pick struct {
	group  *Group
	now    int64
	random uint64
	tried  []*Endpoint
}

func (p *pick) from(pool []*Endpoint) *Endpoint {
	switch len(pool) {
	case 0:
		return nil
	case 1:
		if p.fit(pool[0]) {
			return pool[0]
		}
		return nil
	}
	first, second := balance.Pair(len(pool), p.group.turn.Add(1)-1, p.random)
	a, b := pool[first], pool[second]
	switch fitA, fitB := p.usable(a), p.usable(b); {
	case fitA && fitB:
		if balance.Better(&b.load, &a.load, p.now) {
			return b
		}
		return a
	case fitA:
		return a
	}
	return p.next(pool, first)
}

// next returns the better of the next two in turn that can be used.
func (p *pick) next(pool []*Endpoint, start int) *Endpoint {
	var a, cold *Endpoint
	for i := range pool {
		e := pool[(start+i)%len(pool)]
		switch {
		case !p.fit(e):
		case !p.warm(e):
			cold = cmp.Or(cold, e)
		case a == nil:
			a = e
		case balance.Better(&e.load, &a.load, p.now):
			return e
		default:
			return a
		}
	}
	return cmp.Or(a, cold)
}

// any returns one of those that are the last resort.
func (p *pick) any(ready []*Endpoint) *Endpoint {
	start := int(p.random % uint64(len(ready)))
	for i := range ready {
		if e := ready[(start+i)%len(ready)]; !slices.Contains(p.tried, e) {
			return e
		}
	}
	return nil
}

func (p *pick) usable(e *Endpoint) bool { return p.fit(e) && p.warm(e) }

// fit says that an endpoint was not tried and could be connected to. To find that out by trying would cost a retry, of which
// there is a limited number.
func (p *pick) fit(e *Endpoint) bool {
	if Reach(e.reach.Load()) == NoProxy && e.Protected() {
		return false
	}
	failed := e.failed.Load()
	return (failed == 0 || p.now-failed >= int64(p.group.set.config.Penalty)) && !slices.Contains(p.tried, e)
}

// warm says that an endpoint that is new or back takes this turn.
func (p *pick) warm(e *Endpoint) bool {
	since := max(e.born, e.health.Until())
	if since == 0 {
		return true
	}
	return balance.Admits(since, p.now, p.group.set.config.SlowStart, bitsOf(p.random, since))
}

// bitsOf makes of random bits others, that say nothing of the choice that those were used for.
func bitsOf(random uint64, since int64) uint64 { return (random ^ uint64(since)) * 0x9e3779b97f4a7c15 }
