package balance

import (
	"sync"
	"sync/atomic"
	"time"
)

// Rate limits how often something happens, by an average and a burst that may come at once.
type Rate struct {
	interval int64 // between two events at the average rate
	slack    int64 // how far ahead of the average events may be
	next     atomic.Int64
}

// NewRate returns a Rate of so many events per second, of which burst may come at once. Both are at least 1.
func NewRate(perSecond, burst uint32) *Rate {
	interval := int64(time.Second) / int64(max(perSecond, 1))
	return &Rate{interval: interval, slack: interval * (int64(max(burst, 1)) - 1)}
}

// Allow says whether an event may happen, and counts it if so.
func (r *Rate) Allow(now int64) bool {
	for {
		planned := r.next.Load()
		at := max(planned, now)
		if at-now > r.slack {
			return false
		}
		if r.next.CompareAndSwap(planned, at+r.interval) {
			return true
		}
	}
}

// Budget limits retries to a share of the requests and some per second. The zero value is a new one.
type Budget struct {
	requests atomic.Int64

	mu      sync.Mutex // of those who retry
	at      int64      // of the last one; guarded by mu, as what follows
	seen    int64      // requests so far
	granted float64    // retries by the share of the requests
	basic   float64    // retries by the second
}

// Allowance is how many retries there may be: a share of the requests, and so many a second besides.
type Allowance struct {
	Ratio     float64
	PerSecond float64
}

// saved is how many seconds' worth of an allowance can be saved up.
const saved = 10

// Request counts a request.
func (b *Budget) Request() { b.requests.Add(1) }

// Retry says whether there may be another attempt, and counts it if so.
func (b *Budget) Retry(now int64, a Allowance) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.at == 0 {
		b.at, b.basic = now, a.PerSecond
	}
	passed := float64(max(now-b.at, 0)) / float64(time.Second)
	requests := b.requests.Load()
	fresh := float64(requests - b.seen)
	b.at, b.seen = max(now, b.at), requests
	b.basic = min(b.basic+passed*a.PerSecond, saved*a.PerSecond)
	// What the requests of long ago granted is forgotten.
	b.granted *= max(1-passed/saved, 0)
	b.granted += fresh * a.Ratio * saved / max(passed, saved)
	switch {
	case b.granted >= 1:
		b.granted--
	case b.basic >= 1:
		b.basic--
	default:
		return false
	}
	return true
}
