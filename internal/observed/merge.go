package observed

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/access"
)

// Merge adds up what proxies recorded. Of several reports of one run of a proxy the last one counts, so that what is saved
// now and then can be put together.
func Merge(all []Report) Merged {
	type run struct {
		pod   string
		since int64
	}
	last := map[run]Report{}
	for _, r := range all {
		id := run{r.Pod, r.Since.UnixNano()}
		if known, has := last[id]; !has || known.Until.Before(r.Until) {
			last[id] = r
		}
	}
	type kind struct {
		method, path string
		reason       access.Reason
		past         bool
	}
	var m Merged
	lost := map[Peers]uint64{}
	calls := map[Peers]map[kind]Call{}
	for _, r := range last {
		m.add(r)
		for _, e := range r.Edges {
			lost[e.Peers] += e.Lost
			if calls[e.Peers] == nil {
				calls[e.Peers] = map[kind]Call{}
			}
			for _, c := range e.Calls {
				k := kind{c.Method, c.Path, c.Reason, c.Past}
				calls[e.Peers][k] = calls[e.Peers][k].with(c)
			}
		}
	}
	for p, all := range calls {
		m.Edges = append(m.Edges, Edge{p, lost[p], slices.SortedFunc(maps.Values(all), compareCalls)})
	}
	slices.SortFunc(m.Edges, func(a, b Edge) int { return a.compare(b.Peers) })
	return m
}

// Merged is what several proxies recorded together.
type Merged struct {
	Proxies      int // runs of proxies: one that restarted counts twice
	Since, Until time.Time
	Missing      []string // proxies that did not answer
	Lost         uint64
	Edges        []Edge // by peers
}

func (m *Merged) add(r Report) {
	if m.Proxies == 0 || r.Since.Before(m.Since) {
		m.Since = r.Since
	}
	if m.Until.Before(r.Until) {
		m.Until = r.Until
	}
	m.Proxies++
	m.Lost += r.Lost
}

// with adds a call of the same kind; the zero Call is none.
func (c Call) with(o Call) Call {
	if c.Count == 0 {
		return o
	}
	c.Count += o.Count
	if o.First.Before(c.First) {
		c.First = o.First
	}
	if c.Last.Before(o.Last) {
		c.Last = o.Last
	}
	return c
}

// To accepts calls to a destination: "namespace", "namespace/serviceaccount", or all if it is empty.
func To(destination string) func(Peers) bool {
	return func(p Peers) bool {
		namespace, _, _ := strings.Cut(p.To, "/")
		return destination == "" || p.To == destination || namespace == destination
	}
}

// Only leaves what want accepts.
func (r Report) Only(want func(Peers) bool) Report {
	r.Edges = slices.DeleteFunc(slices.Clone(r.Edges), func(e Edge) bool { return !want(e.Peers) })
	return r
}

// Denial is what an audit found: calls that would be denied by the policy that is in use now.
type Denial struct {
	Peers
	Reason access.Reason
	Count  uint64
	First  time.Time
	Last   time.Time
}

// Denials lists them, the most frequent first.
func (m Merged) Denials() []Denial {
	var out []Denial
	for _, e := range m.Edges {
		byReason := map[access.Reason]Call{}
		for _, c := range e.Calls {
			if c.Reason != "" && !c.Past {
				byReason[c.Reason] = byReason[c.Reason].with(c)
			}
		}
		for reason, c := range byReason {
			out = append(out, Denial{e.Peers, reason, c.Count, c.First, c.Last})
		}
	}
	slices.SortFunc(out, func(a, b Denial) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), a.compare(b.Peers), cmp.Compare(a.Reason, b.Reason))
	})
	return out
}

// Audited counts the calls that policies in use now were asked about, and those that there was no room for.
func (m Merged) Audited() (calls, lost uint64) {
	for _, e := range m.Edges {
		for _, c := range e.Calls {
			if !c.Past {
				calls += c.Count
			}
		}
		lost += e.Lost
	}
	return calls, lost + m.Lost
}
