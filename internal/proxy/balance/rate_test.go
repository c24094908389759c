package balance_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tulle-mesh/tulle/internal/proxy/balance"
)

func TestRate(t *testing.T) {
	r := balance.NewRate(10, 5)
	allowed := func(now int64, events int) (n int) {
		for range events {
			if r.Allow(now) {
				n++
			}
		}
		return n
	}
	now := second
	if got := allowed(now, 100); got != 5 {
		t.Errorf("%d at once, want the burst of 5", got)
	}
	if got := allowed(now+second/10, 100); got != 1 {
		t.Errorf("%d after a tenth of a second, want 1", got)
	}
	if got := allowed(now+100*second, 100); got != 5 {
		t.Errorf("%d after a long time, want the burst of 5", got)
	}
	got := 0
	for i := range int64(1000) {
		got += allowed(now+200*second+i*10*ms, 3)
	}
	if got < 100 || got > 106 {
		t.Errorf("%d in 10 s, want 10 a second and the burst", got)
	}
}

func TestRateOfManyAtOnce(t *testing.T) {
	r := balance.NewRate(1, 100)
	var n atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				if r.Allow(second) {
					n.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n.Load() != 100 {
		t.Errorf("%d, want 100", n.Load())
	}
}

func TestRetryBudget(t *testing.T) {
	a := balance.Allowance{Ratio: 0.2, PerSecond: 10}
	retries := func(b *balance.Budget, now int64, tries int) (n int) {
		for range tries {
			if b.Retry(now, a) {
				n++
			}
		}
		return n
	}
	var quiet balance.Budget
	now := second
	if got := retries(&quiet, now, 100); got != 10 {
		t.Errorf("at first: %d, want 10", got)
	}
	if got := retries(&quiet, now+second, 100); got != 10 {
		t.Errorf("a second later: %d, want 10", got)
	}
	if got := retries(&quiet, now+1000*second, 1000); got != 100 {
		t.Errorf("after a long time: %d, want what 10 s save up", got)
	}

	// All of 1,000 requests a second fail, and each would be tried twice more.
	var busy balance.Budget
	retries(&busy, now, 100)
	got := 0
	for i := range int64(10_000) {
		busy.Request()
		got += retries(&busy, now+i*ms, 2)
	}
	if got < 2090 || got > 2110 {
		t.Errorf("%d retries of 10,000 requests in 10 s, want 20%% and 10 a second", got)
	}

	// An endpoint of a service with 1,000 requests a second takes three seconds to say nothing.
	var hung balance.Budget
	for range 3000 {
		hung.Request()
	}
	if got := retries(&hung, now+3*second, 5000); got != 610 {
		t.Errorf("%d retries after 3,000 requests, want 20%% and 10", got)
	}
	for range 100_000 {
		hung.Request()
	}
	if got := retries(&hung, now+103*second, 50_000); got != 2100 {
		t.Errorf("%d retries after 100,000 requests in 100 s, want those of 10 s", got)
	}

	var none balance.Budget
	if none.Retry(now, balance.Allowance{}) || none.Retry(now+1000*second, balance.Allowance{}) {
		t.Error("a retry without an allowance")
	}
}
