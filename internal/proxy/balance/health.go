package balance

import (
	"sync"
	"sync/atomic"
	"time"
)

// Rules say when an endpoint is ejected: set aside because it fails. The zero value never ejects.
type Rules struct {
	Failures int           // in a row that eject; 0 = never
	Least    time.Duration // how long the first ejection lasts; each further one in a row lasts twice as long
	Most     time.Duration // how long one lasts at most
}

// Health is how an endpoint fared lately. The zero value is that of a good one.
type Health struct {
	failures atomic.Int32 // in a row
	until    atomic.Int64 // when the last ejection ends or ended; 0 = there was none
	heals    atomic.Int64 // when a success makes the ejections forgotten; 0 = there are none

	mu        sync.Mutex
	ejections int // in a row; guarded by mu
}

// Fail takes in a failure, and says whether it ejects the endpoint. Failures while it is ejected change nothing. One that
// is back from an ejection is ejected again by its first failure, as long as it has had no success.
func (h *Health) Fail(now int64, r Rules) (ejected bool) {
	if r.Failures <= 0 || h.Ejected(now) {
		return false
	}
	if int(h.failures.Add(1)) < r.Failures {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.Ejected(now) {
		return false
	}
	if at := h.heals.Load(); at != 0 && now >= at {
		h.ejections = 0 // there was nothing to fail at for long
	}
	lasts := int64(max(r.Least, 1)) << min(h.ejections, 30)
	if lasts > int64(r.Most) {
		lasts = int64(max(r.Most, r.Least))
	}
	h.ejections++
	h.failures.Store(int32(r.Failures - 1))
	h.heals.Store(now + 2*lasts)
	h.until.Store(now + lasts)
	return true
}

// Succeed takes in a success.
func (h *Health) Succeed(now int64) {
	if h.failures.Load() != 0 && !h.Ejected(now) {
		h.failures.Store(0)
	}
	if at := h.heals.Load(); at != 0 && now >= at {
		h.mu.Lock()
		defer h.mu.Unlock()
		if at = h.heals.Load(); now >= at {
			h.ejections = 0
			h.heals.Store(0)
		}
	}
}

// Ejected says that the endpoint is set aside.
func (h *Health) Ejected(now int64) bool { return now < h.until.Load() }

// Until is when the last ejection ends or ended; 0 if there was none.
func (h *Health) Until() int64 { return h.until.Load() }

// leastWarm is the share of its turns that a cold endpoint takes.
const leastWarm = 0.1

// Admits says whether an endpoint that is new since a time (0 = it isn't) takes its turn: more and more often while it
// warms up, at last always.
func Admits(since, now int64, window time.Duration, random uint64) bool {
	age := now - since
	if since == 0 || age >= int64(window) {
		return true
	}
	share := max(float64(age)/float64(window), leastWarm)
	return float64(random>>11)/(1<<53) < share
}
