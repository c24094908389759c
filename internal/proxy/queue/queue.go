// Package queue lets few at a time make what is costly to make, and gives the others what becomes free meanwhile.
//
// Without it, calls that find nothing free each make their own: when a moment without CPU has held up many, all that they
// make is made at the same time and slowly, those that arrive until then add theirs, and there is no end to it.
package queue

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	places   = 8               // how many make something at the same time
	patience = 2 * time.Second // when nothing has been made or become free for so long, those who make something hang
	most     = 5 * time.Second // nobody waits for longer: to make one may be slow without being costly
)

// Queue is of those who want one of several equal things. The zero value is ready.
type Queue struct {
	mu      sync.Mutex
	making  int
	waiting []chan struct{} // who came first comes first
	waiters atomic.Int32    // len(waiting), for a look without the mutex
	moved   time.Time       // when something was made or became free, while somebody waited for it
}

// Enter returns true when take, which looks for something free, has found it. If it returns false the caller is to make
// one, and to call Done then. It waits for one of both, for a while, and not after the end of ctx.
func (q *Queue) Enter(ctx context.Context, take func() bool) bool {
	if q.place() {
		return false
	}
	began, turn := time.Now(), make(chan struct{}, 1)
	for back := false; ; back = true {
		q.line(turn, back)
		if take() { // only now: what becomes free from now on is told
			q.leave(turn)
			return true
		}
		if !q.await(ctx, turn, began) {
			q.leave(turn)
			q.push()
			return false
		}
		if take() {
			return true
		}
		if q.place() {
			return false
		}
	}
}

// await returns true when it is the turn of somebody who has been here since a certain time, and false if that isn't to be
// waited for.
func (q *Queue) await(ctx context.Context, turn <-chan struct{}, since time.Time) bool {
	for {
		left := min(patience-q.idle(since), most-time.Since(since))
		if left <= 0 {
			return false
		}
		select {
		case <-turn:
			return true
		case <-ctx.Done():
			return false
		case <-time.After(left):
		}
	}
}

// idle is for how long nothing has moved, as far as somebody could have seen who has been here since a certain time.
func (q *Queue) idle(since time.Time) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	return min(time.Since(since), time.Since(q.moved))
}

// Freed says that there is something free now.
func (q *Queue) Freed() {
	if q.waiters.Load() == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.wake()
}

// Done says that what Enter left to its caller is made, or can't be.
func (q *Queue) Done() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.making--
	q.wake()
}

func (q *Queue) place() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.making >= places {
		return false
	}
	q.making++
	return true
}

// push takes a place that there isn't.
func (q *Queue) push() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.making++
}

// line puts somebody last, or first if it was his turn in vain.
func (q *Queue) line(turn chan struct{}, back bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	at := len(q.waiting)
	if back {
		at = 0
	}
	q.waiting = slices.Insert(q.waiting, at, turn)
	q.waiters.Add(1)
}

// leave takes somebody off the line. If it was his turn, it is the next one's.
func (q *Queue) leave(turn chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if at := slices.Index(q.waiting, turn); at >= 0 {
		q.waiting = slices.Delete(q.waiting, at, at+1)
		q.waiters.Add(-1)
		return
	}
	q.wake()
}

// wake tells who is first. The mutex is held.
func (q *Queue) wake() {
	if len(q.waiting) > 0 {
		q.moved = time.Now()
		q.waiting[0] <- struct{}{}
		q.waiting = slices.Delete(q.waiting, 0, 1)
		q.waiters.Add(-1)
	}
}
