// Package turn lets the namespaces of a node take turns at its proxy's CPU.
//
// Go runs goroutines in the order in which they could run, and asks the network who else can only when none is left. So a
// namespace with thousands of requests at once would be thousands of goroutines that a request of another one waits for.
// Here a namespace may begin only so much in a round, and all else of it waits in a line that costs no CPU. A round ends
// when all that could run has run and the network has been asked, which soon is the case as so little could: nothing
// is measured, and no CPU is left unused. Who takes few turns never waits.
//
// Everything is safe for concurrent use.
package turn

import (
	"cmp"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Turns of a namespace in a round, for each CPU. A turn is some ten microseconds, and some hundred while the garbage
// collector has others help it. To begin a round takes some, too.
const (
	alone  = 256 // nobody is there to wait for it
	shared = 128 // of all namespaces together, but
	least  = 32  // of each
	beside = 8   // of what is no namespace

	// Where others are there, and more wait than have a turn in a round, this is a flood, and who doesn't want much of the
	// CPU is to wait for as little as can be.
	flooded = 1
)

// Config is what Rounds needs; the zero values mean the defaults.
type Config struct {
	// Look returns when all goroutines that could run have, and the network has been asked who else can.
	Look func()
	CPUs int
}

// Rounds gives out turns.
type Rounds struct {
	look   func()
	net    *network
	number atomic.Uint32
	active active
	turns  sync.Pool // channels with room for one

	mu      sync.Mutex
	running bool     // somebody sees to the next round; guarded by mu
	waiting []*Queue // that somebody waits in; guarded by mu
}

// New returns Rounds whose first one has begun.
func New(c Config) *Rounds {
	r := &Rounds{look: c.Look}
	if r.look == nil {
		r.net = &network{}
		r.look = r.net.look
	}
	r.turns.New = func() any { return make(chan struct{}, 1) }
	r.active.cpus = cmp.Or(c.CPUs, runtime.GOMAXPROCS(0))
	r.active.set()
	r.active.period.Store(1) // who has taken no turn has not been seen in it, nor
	r.number.Store(1)        // has taken turns of this round
	return r
}

// Queue returns a new one of a namespace.
func (r *Rounds) Queue() *Queue { return &Queue{rounds: r} }

// Uncounted returns a new one of something that takes turns beside the namespaces.
func (r *Rounds) Uncounted() *Queue {
	return &Queue{rounds: r, fixed: int32(beside * r.active.cpus)} // #nosec G115 -- small
}

// Close gives up what rounds are told apart by; who waits still gets its turn.
func (r *Rounds) Close() {
	if r.net != nil {
		r.net.close()
	}
}

// Queue is of those who wait for a turn of one namespace.
type Queue struct {
	rounds *Rounds
	fixed  int32         // turns in a round of what is no namespace; 0 = what a namespace has
	taken  atomic.Uint64 // a round (high half), and how many turns were taken in it
	seen   atomic.Uint32 // the period in which one was taken last
	waited atomic.Int64  // ns

	waiting         atomic.Int32 // how many are in the lines
	underway, fresh line         // guarded by the rounds' mu
}

// Begin waits for a turn for something new.
func (q *Queue) Begin() {
	if !q.pass() {
		q.wait(&q.fresh)
	}
}

// GoOn waits for a turn for something that has begun, if that many wait that not all have one in the next round. It comes
// before what is new: what has begun holds more than its place in a line.
func (q *Queue) GoOn() {
	if q.waiting.Load() > q.quota() {
		q.wait(&q.underway)
	}
}

// Waited is how long all have waited together who have got their turn.
func (q *Queue) Waited() time.Duration { return time.Duration(q.waited.Load()) }

// pass takes a turn, if the round has one left. The next round is called for before nobody has: unless the CPU is wanted
// by more than get it, it is there in time.
func (q *Queue) pass() bool {
	ok, half := q.take()
	if half {
		q.rounds.hurry()
	}
	return ok
}

// take takes a turn if the round has one left, and says whether half of them are gone by that.
func (q *Queue) take() (ok, half bool) {
	r := q.rounds
	if q.waiting.Load() > 0 {
		return false, false // not before those who were here before
	}
	for {
		taken, round := q.taken.Load(), r.number.Load()
		next := taken + 1
		if uint32(taken>>32) != round {
			r.active.see(q)
			next = uint64(round)<<32 | 1
		} else if int32(taken) >= q.quota() { // #nosec G115 -- its low half
			return false, false
		}
		if q.taken.CompareAndSwap(taken, next) {
			return true, int32(next) == q.quota()/2 // #nosec G115 -- as above
		}
	}
}

func (q *Queue) quota() int32 {
	if q.fixed != 0 {
		return q.fixed
	}
	return q.rounds.active.quota.Load()
}

func (q *Queue) wait(l *line) {
	began, turn := time.Now(), q.rounds.turns.Get().(chan struct{})
	q.rounds.enter(q, l, turn)
	<-turn
	q.rounds.turns.Put(turn)
	q.waited.Add(int64(time.Since(began)))
}

func (r *Rounds) enter(q *Queue, l *line, turn chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if q.waiting.Add(1) == 1 {
		r.waiting = append(r.waiting, q)
	}
	l.push(turn)
	r.start()
}

// hurry begins another round, as soon as this one ends.
func (r *Rounds) hurry() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.start()
}

// start lets somebody see to the next round. The mutex is held.
func (r *Rounds) start() {
	if !r.running {
		r.running = true
		go r.run()
	}
}

// run begins rounds as long as they are called for.
func (r *Rounds) run() {
	for more := true; more; {
		r.look()
		more = r.next()
	}
}

// next begins a round, and gives its turns to those who wait. It says whether another one is called for.
func (r *Rounds) next() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active.age(time.Now())
	r.number.Add(1)
	still := r.waiting[:0]
	for _, q := range r.waiting {
		r.active.see(q)
		for range q.turns() {
			q.first() <- struct{}{}
			q.waiting.Add(-1)
		}
		if q.waiting.Load() > 0 {
			still = append(still, q)
		}
	}
	clear(r.waiting[len(still):])
	r.waiting = still
	r.running = len(still) > 0
	return r.running
}

// turns is how many of those who wait have one in a round.
func (q *Queue) turns() int32 {
	waiting, quota := q.waiting.Load(), q.quota()
	switch {
	case waiting <= quota:
		return waiting
	case q.fixed != 0:
		return quota
	}
	return q.rounds.active.flood.Load()
}

// first takes the one out of the lines whose turn it is.
func (q *Queue) first() chan struct{} {
	if q.underway.len() > 0 {
		return q.underway.pop()
	}
	return q.fresh.pop()
}

// line is of those who wait; who came first comes first.
type line struct {
	turns []chan struct{}
	gone  int // turns that were given
}

func (l *line) len() int { return len(l.turns) - l.gone }

func (l *line) push(turn chan struct{}) {
	if l.gone > 64 && 2*l.gone > len(l.turns) {
		n := copy(l.turns, l.turns[l.gone:])
		clear(l.turns[n:])
		l.turns, l.gone = l.turns[:n], 0
	}
	l.turns = append(l.turns, turn)
}

func (l *line) pop() chan struct{} {
	turn := l.turns[l.gone]
	l.turns[l.gone] = nil
	if l.gone++; l.gone == len(l.turns) {
		l.turns, l.gone = l.turns[:0], 0
		if cap(l.turns) > 1024 {
			l.turns = nil // it was a time of many
		}
	}
	return turn
}
