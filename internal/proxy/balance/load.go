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
	// A sample counts as so many times the average at most: a single pause must not keep everybody away.
	mostGrowth = 8
	// few is how many samples there must be. The average begins with the least of them: the first answers of an endpoint
	// have connections to make and caches to fill.
	few = 7
)

// A Load keeps in one word, so that they always belong together, the average as a float32, the time of the last sample in
// ticks, and how many samples there were, up to few.
const (
	tickBits  = 16 // a tick is 2^16 ns
	countBits = 3
	timeBits  = 32 - countBits
	timeMask  = 1<<timeBits - 1
	// overtaken is how many ticks a sample may be late: 4 s. What seems later is after a silence of hours.
	overtaken = 1 << 16
)

type known struct {
	latency float64 // in nanoseconds
	at      uint32  // in ticks, as far as timeMask goes
	samples uint32
}

func unpack(word uint64) known {
	low := uint32(word)
	return known{float64(math.Float32frombits(uint32(word >> 32))), low & timeMask, low >> timeBits}
}

func (k known) pack() uint64 {
	return uint64(math.Float32bits(float32(k.latency)))<<32 | uint64(k.samples<<timeBits|k.at)
}

func ticks(now int64) uint32 { return uint32(now>>tickBits) & timeMask }

// Load is how busy an endpoint is and how long its answers take. The zero value is that of one that nothing is known of.
type Load struct {
	inflight atomic.Int64
	latency  atomic.Uint64 // known, packed
}

// Begin counts something that is under way.
func (l *Load) Begin() { l.inflight.Add(1) }

// End is the end of what Begin began.
func (l *Load) End() { l.inflight.Add(-1) }

// InFlight is how much is under way.
func (l *Load) InFlight() int64 { return l.inflight.Load() }

// Sample takes in how long an answer took.
func (l *Load) Sample(now, took int64) {
	word := l.latency.Load()
	k, at, sample := unpack(word), ticks(now), float64(max(took, 1))
	since := (at - k.at) & timeMask
	switch {
	case k.samples == 0:
		k.latency = sample
	case k.samples < few:
		k.latency = min(k.latency, sample)
	case since == 0 || since > timeMask-overtaken:
		return // one sample a tick is enough; and one that was overtaken by another is old
	default:
		age := float64(uint64(since) << tickBits)
		sample = min(sample, mostGrowth*max(k.latency, leastLatency))
		k.latency += (sample - k.latency) * age / (memory + age)
	}
	k.at, k.samples = at, min(k.samples+1, few)
	// Who loses a race loses a sample.
	l.latency.CompareAndSwap(word, k.pack())
}

// Latency is how long answers take, in nanoseconds, as far as that is known, and still; 0 if it isn't.
func (l *Load) Latency(now int64) float64 {
	k := unpack(l.latency.Load())
	if k.samples < few {
		return 0
	}
	silent := float64(uint64((ticks(now)-k.at)&timeMask) << tickBits)
	if silent < memory/16 {
		return k.latency
	}
	return k.latency * math.Exp(-silent/memory)
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
