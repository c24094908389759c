// Package drain waits for what is being served to end, and cuts it short when time is up.
package drain

import (
	"context"
	"errors"
	"sync"
)

// ErrCut says that something had to be ended for want of time.
var ErrCut = errors.New("connections were cut")

// Active is the set of what is being served. The zero value is empty. It is safe for concurrent use.
type Active struct {
	mu     sync.Mutex
	ends   map[*func()]struct{} // guarded by mu, as all
	empty  chan struct{}        // closed when ends gets empty; nil if nobody waits
	closed bool
}

// Add adds something that end cuts short. done takes it out again. It is not ok once the set was cut.
func (a *Active) Add(end func()) (done func(), ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil, false
	}
	if a.ends == nil {
		a.ends = map[*func()]struct{}{}
	}
	a.ends[&end] = struct{}{}
	return func() { a.remove(&end) }, true
}

func (a *Active) remove(end *func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.ends, end)
	if len(a.ends) == 0 && a.empty != nil {
		close(a.empty)
		a.empty = nil
	}
}

// Drain waits until the set is empty. When ctx ends it cuts what is left and returns ErrCut.
func (a *Active) Drain(ctx context.Context) error {
	select {
	case <-a.whenEmpty():
		return nil
	case <-ctx.Done():
	}
	if a.Cut() > 0 {
		return ErrCut
	}
	return nil
}

// Cut cuts short what is in the set, waits until it has ended, and lets nothing in any more. It returns how much it
// cut.
func (a *Active) Cut() int {
	a.mu.Lock()
	a.closed = true
	ends := make([]func(), 0, len(a.ends))
	for end := range a.ends {
		ends = append(ends, *end)
	}
	a.mu.Unlock()
	for _, end := range ends {
		end()
	}
	<-a.whenEmpty()
	return len(ends)
}

func (a *Active) whenEmpty() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.ends) == 0 {
		now := make(chan struct{})
		close(now)
		return now
	}
	if a.empty == nil {
		a.empty = make(chan struct{})
	}
	return a.empty
}
