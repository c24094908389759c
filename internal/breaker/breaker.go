// Package breaker stops calls to a service that fails anyway: a circuit opens when an expression about its last answers
// is true, for a while, and closes little by little. The expressions are those of Traefik's circuit breaker:
//
//	NetworkErrorRatio() > 0.30
//	LatencyAtQuantileMS(50.0) > 100
//	ResponseCodeRatio(500, 600, 0, 600) > 0.25 || NetworkErrorRatio() >= 0.5
//
// It is pure: times are given in nanoseconds since some beginning, greater than zero, randomness as random bits.
package breaker

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// OpenFor is how long a circuit stays open.
	OpenFor = 10 * time.Second
	// CloseIn is how long it then takes until everything passes again.
	CloseIn = 10 * time.Second
	// Window is how long answers count.
	Window = 10 * time.Second
	// LeastAnswers is how many answers there must be to judge by: one failure of one call is no ratio.
	LeastAnswers = 10

	checkEvery = 100 * time.Millisecond
)

// Answer is how a call ended.
type Answer struct {
	Status  int           // of HTTP
	Network bool          // the endpoint gave no answer: it could not be connected to, broke off or took too long
	Took    time.Duration // until the answer began, or there was none
}

// Circuit is the state of a service's circuit breaker. It is safe for concurrent use.
type Circuit struct {
	expression *Expression
	opened     atomic.Int64 // when it opened last; 0 = closed

	mu      sync.Mutex
	window  window // guarded by mu
	checked int64  // guarded by mu
}

// New returns a closed circuit.
func New(e *Expression) *Circuit {
	return &Circuit{expression: e, window: newWindow(e)}
}

// Expression is what opens the circuit.
func (c *Circuit) Expression() *Expression { return c.expression }

// Allow says whether a call may be made. random decides for calls while the circuit closes.
func (c *Circuit) Allow(now int64, random uint64) bool {
	opened := c.opened.Load()
	if opened == 0 {
		return true
	}
	closing := now - opened - int64(OpenFor)
	switch {
	case closing < 0:
		return false
	case closing >= int64(CloseIn):
		c.opened.CompareAndSwap(opened, 0)
		return true
	}
	return float64(random>>11)/(1<<53) < float64(closing)/float64(CloseIn)
}

// Record takes in how a call ended, and says whether that opened the circuit.
func (c *Circuit) Record(now int64, a Answer) (opened bool) {
	a.Network = a.Network || a.Status == 502 || a.Status == 504
	c.mu.Lock()
	defer c.mu.Unlock()
	if at := c.opened.Load(); at != 0 && now < at+int64(OpenFor) {
		return false // it began before the circuit opened
	}
	c.window.add(now, a)
	if now < c.checked+int64(checkEvery) {
		return false
	}
	c.checked = now
	sum := c.window.sum(now)
	if sum.all < LeastAnswers || !c.expression.holds(sum) {
		return false
	}
	c.window.clear()
	c.opened.Store(now)
	return true
}

// slots are how many parts a window has.
const slots = 10

// window counts the answers of the last seconds.
type window struct {
	expression *Expression
	slots      [slots]counts
	at         [slots]int64 // the number of the slot's time since the beginning
}

// counts are what an expression asks about.
type counts struct {
	all, network uint32
	within       []uint32 // answers by the expression's ranges of statuses
	latencies    []uint32 // by class; empty if nobody asks
}

func newWindow(e *Expression) window {
	w := window{expression: e}
	for i := range w.slots {
		w.slots[i] = newCounts(e)
	}
	return w
}

func newCounts(e *Expression) counts {
	c := counts{within: make([]uint32, len(e.ranges))}
	if e.latency {
		c.latencies = make([]uint32, classes)
	}
	return c
}

func (w *window) add(now int64, a Answer) {
	number := now / int64(Window/slots)
	i := number % slots
	s := &w.slots[i]
	if w.at[i] != number {
		w.at[i] = number
		s.clear()
	}
	s.all++
	if a.Network {
		s.network++
	}
	for r, within := range w.expression.ranges {
		if within.has(a.Status) {
			s.within[r]++
		}
	}
	if s.latencies != nil {
		s.latencies[classOf(a.Took)]++
	}
}

func (w *window) sum(now int64) counts {
	total := newCounts(w.expression)
	number := now / int64(Window/slots)
	for i := range w.slots {
		if w.at[i] <= number-slots {
			continue
		}
		s := &w.slots[i]
		total.all += s.all
		total.network += s.network
		for r, n := range s.within {
			total.within[r] += n
		}
		for r, n := range s.latencies {
			total.latencies[r] += n
		}
	}
	return total
}

func (w *window) clear() {
	for i := range w.slots {
		w.slots[i].clear()
	}
}

func (c *counts) clear() {
	c.all, c.network = 0, 0
	clear(c.within)
	clear(c.latencies)
}

// Latencies are counted in classes, eight to each doubling: they are known to an eighth.
const (
	shift   = 16 // 2^16 ns
	parts   = 8
	classes = parts * 27 // up to an hour
)

func classOf(d time.Duration) int {
	n, doublings := uint64(max(d, 0))>>(shift-3), 0 // in units of which the first doubling has eight
	for n >= 2*parts {
		n >>= 1
		doublings++
	}
	return min(int(n)+doublings*parts, classes-1)
}

// middle is a latency in the middle of a class.
func middle(class int) time.Duration {
	if class < 2*parts {
		return (time.Duration(class)*2 + 1) << (shift - 4)
	}
	doublings := class/parts - 1
	return (time.Duration(class-doublings*parts)*2 + 1) << (shift - 4 + doublings)
}

// quantile is the latency that a share of the answers, in percent, did not exceed.
func (c *counts) quantile(percent float64) time.Duration {
	rank := uint32(percent / 100 * float64(c.all))
	i := slices.IndexFunc(c.latencies, func(n uint32) bool {
		if rank < n {
			return true
		}
		rank -= n
		return false
	})
	if i < 0 { // the last of all
		for i = len(c.latencies) - 1; i > 0 && c.latencies[i] == 0; i-- {
		}
	}
	return middle(i)
}
