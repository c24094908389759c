//go:build linux

package main

import (
	"context"
	"slices"
	"sync"
	"time"
)

// count is what a load has seen. Each worker has a tally of its own.
type count struct {
	mu    sync.Mutex
	taken []time.Duration
}

// tally is what one worker has seen.
type tally []time.Duration

func (c *count) add(t tally) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.taken = append(c.taken, t...)
}

func (c *count) n() int { return len(c.taken) }

func (c *count) quantile(q float64) time.Duration {
	slices.Sort(c.taken)
	return c.taken[int(q*float64(len(c.taken)-1))]
}

// workers runs n of them until all have ended; the first error ends the others.
func workers(ctx context.Context, n int, c *count, work func(context.Context, int, *tally) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	var once sync.Once
	var failed error
	for i := range n {
		wg.Go(func() {
			t := make(tally, 0, 1<<14)
			if err := work(ctx, i, &t); err != nil {
				once.Do(func() { failed = err })
				cancel(err)
			}
			c.add(t)
		})
	}
	wg.Wait()
	return failed
}
