package balance

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

const (
	// memory is how long latencies count: a sample weighs by the time since the one before, and what is known fades if
	// nothing is heard, so that an endpoint that was slow gets another try.
	memory = float64(5 * time.Second)
	// Latencies below this are alike: at that scale the proxy's own scheduling is what is measured.
	leastLatency = float64(time.Millisecond)
	// Latencies that differ by less than this factor are alike.
	alike = 2
	// tick is the unit in which Load keeps times, in nanoseconds as a power of two.
	tick = 16
	// overtaken is how many ticks a sample may be late: 4 s. What seems later is after a silence of days.
	overtaken = 1 << 16
)

// Load is how busy an endpoint is and how long its answers take. The zero value is that of one that nothing is known of.
type Load struct {
	inflight atomic.Int64
	// latency is the moving average, in nanoseconds as a float32, over the time of the last sample, in ticks: one word, so
	// that they always belong together.
	latency atomic.Uint64
}

// Begin counts something that is under way.
func (l *Load) Begin() { l.inflight.Add(1) }

// End is the end of what Begin began.
func (l *Load) End() { l.inflight.Add(-1) }

// InFlight is how much is under way.
func (l *Load) InFlight() int64 { return l.inflight.Load() }

// Sample takes in how long an answer took.
func (l *Load) Sample(now, took int64) {
	at := uint32(now >> tick)
	old := l.latency.Load()
	next := float64(max(took, 1))
	if old != 0 {
		since := at - uint32(old)
		if since == 0 || since > math.MaxUint32-overtaken {
			return // one sample a tick is enough; and one that was overtaken by another is old
		}
		weight := float64(uint64(since)<<tick) / (memory + float64(uint64(since)<<tick))
		before := float64(math.Float32frombits(uint32(old >> 32)))
		next = before + (next-before)*weight
	}
	// Who loses a race loses a sample.
	l.latency.CompareAndSwap(old, uint64(math.Float32bits(float32(next)))<<32|uint64(at))
}

// Latency is how long answers take, in nanoseconds, as far as that is still known; 0 if it isn't.
func (l *Load) Latency(now int64) float64 {
	word := l.latency.Load()
	if word == 0 {
		return 0
	}
	average := float64(math.Float32frombits(uint32(word >> 32)))
	silent := float64(uint64(uint32(now>>tick)-uint32(word)) << tick)
	if silent < memory/16 {
		return average
	}
	return average * math.Exp(-silent/memory)
}

// Better says that b is a better choice than a: less is under way there, or, if their latencies clearly differ, what is
// under way there takes less time.
func Better(b, a *Load, now int64) bool {
	underB, underA := b.inflight.Load(), a.inflight.Load()
	slowB, slowA := b.Latency(now), a.Latency(now)
	if slowA == 0 || slowB == 0 {
		return underB < underA
	}
	slowA, slowB = max(slowA, leastLatency), max(slowB, leastLatency)
	if slowA < alike*slowB && slowB < alike*slowA {
		return underB < underA
	}
	return float64(underB+1)*slowB < float64(underA+1)*slowA
}

// Pair returns two different numbers below n, which is at least 2: the one whose turn it is, and one by chance. Taking
// the better of the two keeps loads even without looking at all (power of two choices), and if all are alike they get
// exactly their turns.
func Pair(n int, turn uint32, random uint64) (first, second int) {
	first = int(turn % uint32(n))
	high, _ := bits.Mul64(random, uint64(n-1))
	second = int(high)
	if second >= first {
		second++
	}
	return first, second
}
