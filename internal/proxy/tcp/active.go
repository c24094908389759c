package tcp

import (
	"context"
	"errors"
	"sync"
)

// ErrCut says that connections had to be ended for want of time.
var ErrCut = errors.New("connections were cut")

// Active is the set of what is being served. The zero value is empty.
type Active struct {
	mu     sync.Mutex
	ends   map[*func()]struct{} // guarded by mu, as all
	empty  chan struct{}
	closed bool
}

// Add adds something that end cuts short. done takes it out again. It is not ok once Drain has cut what was left.
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

// Drain waits until the set is empty. When ctx ends it cuts short what is left, waits for that, and returns ErrCut.
func (a *Active) Drain(ctx context.Context) error {
	cut := false
	for {
		a.mu.Lock()
		if len(a.ends) == 0 {
			a.mu.Unlock()
			if cut {
				return ErrCut
			}
			return nil
		}
		if a.empty == nil {
			a.empty = make(chan struct{})
		}
		empty := a.empty
		a.closed = cut
		var ends []func()
		if cut {
			for end := range a.ends {
				ends = append(ends, *end)
			}
		}
		a.mu.Unlock()
		for _, end := range ends {
			end()
		}
		if cut {
			<-empty
			continue
		}
		select {
		case <-empty:
		case <-ctx.Done():
			cut = true
		}
	}
}

// Cut ends everything in the set at once, waits for it, and lets nothing in any more.
func (a *Active) Cut() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = a.Drain(ctx) // says ErrCut, which is what was asked for
}
