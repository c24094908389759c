package queue_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/queue"
)

// pool makes things, which takes a while, and keeps those that nobody uses.
type pool struct {
	queue queue.Queue
	takes time.Duration

	mu                 sync.Mutex
	free               int
	made, making, most int
}

func (p *pool) take() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.free == 0 {
		return false
	}
	p.free--
	return true
}

func (p *pool) make() {
	p.mu.Lock()
	p.made++
	p.making++
	p.most = max(p.most, p.making)
	p.mu.Unlock()
	<-time.After(p.takes)
	p.mu.Lock()
	p.making--
	p.mu.Unlock()
}

// use takes or makes one, and gives it back after a while.
func (p *pool) use(ctx context.Context, while time.Duration) {
	if !p.take() && !p.queue.Enter(ctx, p.take) {
		p.make()
		p.queue.Done()
	}
	<-time.After(while)
	p.mu.Lock()
	p.free++
	p.mu.Unlock()
	p.queue.Freed()
}

func TestQueue(t *testing.T) {
	const ms = time.Millisecond
	for _, tc := range []struct {
		name        string
		users       int
		takes, uses time.Duration
		made, most  int // the highest
		end         time.Duration
	}{
		{"as many as places", 8, 100 * ms, 10 * ms, 8, 8, 110 * ms},
		{"the others take what becomes free", 100, 100 * ms, 10 * ms, 24, 8, 310 * ms},
		{"what is in use for long is no help", 24, 100 * ms, time.Hour, 24, 8, time.Hour + 300*ms},
		{"slow is not hung", 100, 1500 * ms, 100 * ms, 32, 8, 4600 * ms},
		{"slow for too long", 100, 1500 * ms, time.Hour, 100, 76, time.Hour + 6500*ms},
		{"those who make one hang", 24, time.Hour, 10 * ms, 24, 24, time.Hour + 2010*ms},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, began := &pool{takes: tc.takes}, time.Now()
				var all sync.WaitGroup
				for range tc.users {
					all.Go(func() { p.use(t.Context(), tc.uses) })
				}
				all.Wait()
				if took := time.Since(began); p.made > tc.made || p.most > tc.most || took > tc.end {
					t.Errorf("%d were made, %d at once, it took %v; want %d, %d and %v at most", p.made, p.most, took, tc.made, tc.most, tc.end)
				}
				if p.made != p.free {
					t.Errorf("%d were made and %d are left", p.made, p.free)
				}
			})
		})
	}
}

// Who gives up makes his own, which his context ends, and holds up nobody.
func TestGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pool{takes: 200 * time.Millisecond}
		for range 8 {
			go p.use(t.Context(), time.Hour)
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		began := time.Now()
		if p.queue.Enter(ctx, p.take) || time.Since(began) != 50*time.Millisecond {
			t.Errorf("it took something, after %v", time.Since(began))
		}
		p.queue.Done()
		var served atomic.Bool
		go func() {
			p.use(t.Context(), 0)
			served.Store(true)
		}()
		<-time.After(360 * time.Millisecond) // 150 until those are made, 200 for its own
		synctest.Wait()
		if !served.Load() {
			t.Error("who came later isn't served")
		}
		<-time.After(2 * time.Hour)
	})
}

// Nobody is forgotten, whoever comes between.
func TestNobodyIsForgotten(t *testing.T) {
	p := &pool{}
	var all sync.WaitGroup
	began := time.Now()
	for range 64 {
		all.Go(func() {
			for range 500 {
				p.use(t.Context(), 0)
			}
		})
	}
	all.Wait()
	if p.made != p.free || p.making != 0 {
		t.Errorf("%d were made, %d are left, %d are being made", p.made, p.free, p.making)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v: some must have waited for their patience to end", took)
	}
}
