package turn

import (
	"sync"
	"sync/atomic"
	"time"
)

// period is how long a namespace that takes turns is remembered at least.
const period = time.Second

// active counts the namespaces that take turns: rounds are so short that most of them miss most.
type active struct {
	cpus   int
	shared atomic.Bool   // there are several
	quota  atomic.Uint32 // turns of a namespace in a round, if nobody waits for one

	period atomic.Uint32

	mu        sync.Mutex
	began     time.Time // the period; guarded by mu, as all below
	now, last int       // namespaces that have taken a turn in this period, and in the one before
}

// see counts a namespace once in a period.
func (a *active) see(q *Queue) {
	if q.uncounted || q.seen.Load() == a.period.Load() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.period.Load(); q.seen.Swap(p) != p {
		a.now++
		a.set()
	}
}

// age begins another period if this one is old enough.
func (a *active) age(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now.Sub(a.began) < period {
		return
	}
	a.began = now
	a.last, a.now = a.now, 0
	a.period.Add(1)
	a.set()
}

// set sets the quota. The mutex is held.
func (a *active) set() {
	n, quota := max(a.now, a.last), alone
	if n > 1 {
		quota = max(shared/n, least)
	}
	a.shared.Store(n > 1)
	a.quota.Store(uint32(quota * a.cpus)) // #nosec G115 -- small
}

// waiting is how many turns a namespace has in a round if that is not enough.
func (a *active) waiting() int32 {
	n := aloneWaiting
	if a.shared.Load() {
		n = sharedWaiting
	}
	return int32(n * a.cpus) // #nosec G115 -- small
}
