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

	mu     sync.Mutex // of those who retry
	seen   int64      // requests that tokens were given for; guarded by mu, as what follows
	at     int64
	tokens float64
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
	requests := b.requests.Load()
	if b.at == 0 {
		b.at, b.tokens = now, a.PerSecond
	}
	passed := max(now-b.at, 0)
	b.tokens += float64(passed)/float64(time.Second)*a.PerSecond + float64(requests-b.seen)*a.Ratio
	b.tokens = min(b.tokens, saved*max(a.PerSecond, 1))
	b.seen, b.at = requests, b.at+passed
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
