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
	cpus  int
	quota atomic.Int32 // turns of a namespace in a round
	flood atomic.Int32 // and of one of which more wait

	period atomic.Uint32

	mu        sync.Mutex
	began     time.Time // the period; guarded by mu, as all below
	now, last int       // namespaces that have taken a turn in this period, and in the one before
}

// see counts a namespace once in a period.
func (a *active) see(q *Queue) {
	if q.fixed != 0 || q.seen.Load() == a.period.Load() {
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
	quota, flood := alone, alone
	if n := max(a.now, a.last); n > 1 {
		quota, flood = max(shared/n, least), flooded
	}
	a.quota.Store(int32(quota * a.cpus)) // #nosec G115 -- small
	a.flood.Store(int32(flood * a.cpus)) // #nosec G115 -- small
}
