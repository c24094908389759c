package balance_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/balance"
)

const ms = int64(time.Millisecond)

func TestLatencyIsAMovingAverageThatFades(t *testing.T) {
	var l balance.Load
	if got := l.Latency(1); got != 0 {
		t.Errorf("of one that nothing is known of: %v", got)
	}
	now := int64(time.Hour)
	l.Sample(now, 5000*ms) // it had to wake up
	for range 6 {
		if got := l.Latency(now); got != 0 {
			t.Errorf("of one that hardly anything is known of: %v", got)
		}
		l.Sample(now, 100*ms)
	}
	near := func(want time.Duration) {
		t.Helper()
		got := l.Latency(now)
		if got < 0.97*float64(want) || got > 1.03*float64(want) {
			t.Errorf("%v, want about %v", time.Duration(got), want)
		}
	}
	near(100 * time.Millisecond)
	for range 5000 {
		now += 10 * ms
		l.Sample(now, 10*ms)
	}
	near(10 * time.Millisecond)
	now += 10 * ms
	l.Sample(now, 1000*ms) // one answer in a hundred a second
	if got := l.Latency(now); got > 2*float64(10*ms) {
		t.Errorf("one slow answer made it %v", time.Duration(got))
	}
	now += int64(20 * time.Second)
	if got := l.Latency(now); got > float64(ms) {
		t.Errorf("after 20 s of silence: %v", time.Duration(got))
	}
}

// One answer a second, and one that takes 5 s: it is as if it had been eight times the others.
func TestOnePauseIsNoLatency(t *testing.T) {
	var l balance.Load
	now := int64(time.Hour)
	for range 100 {
		now += int64(time.Second)
		l.Sample(now, 10*ms)
	}
	now += int64(time.Second)
	l.Sample(now, 5000*ms)
	if got := l.Latency(now); got > 2.5*float64(10*ms) {
		t.Errorf("%v", time.Duration(got))
	}
	for range 20 {
		now += int64(time.Second)
		l.Sample(now, 5000*ms)
	}
	if got := l.Latency(now); got < 4000*float64(ms) {
		t.Errorf("20 such answers later: %v", time.Duration(got))
	}
}

// Times are kept in few bits: however long the silence was, the next sample is taken.
func TestLatencyAfterAnySilence(t *testing.T) {
	for hours := int64(1); hours < 200; hours++ {
		var l balance.Load
		now := int64(time.Second)
		for range 7 {
			l.Sample(now, 100*ms)
		}
		now += hours * int64(time.Hour)
		for range 1000 {
			now += 100 * ms
			l.Sample(now, 10*ms)
		}
		if got := l.Latency(now); got < 9.9*float64(ms) || got > 10.1*float64(ms) {
			t.Errorf("after %d h: %v", hours, time.Duration(got))
		}
	}
}

func TestBetter(t *testing.T) {
	load := func(under int, latency time.Duration) *balance.Load {
		var l balance.Load
		for range under {
			l.Begin()
		}
		for range 7 {
			if latency > 0 {
				l.Sample(1, int64(latency))
			}
		}
		return &l
	}
	for _, c := range []struct {
		name string
		b, a *balance.Load
		want bool
	}{
		{"both idle", load(0, 0), load(0, 0), false},
		{"less under way, nothing known", load(0, 0), load(1, 0), true},
		{"more under way", load(2, 0), load(1, 0), false},
		{"a little faster", load(0, 10*time.Millisecond), load(0, 15*time.Millisecond), false},
		{"clearly faster", load(0, 10*time.Millisecond), load(0, 25*time.Millisecond), true},
		{"clearly faster, but busy", load(5, 10*time.Millisecond), load(0, 25*time.Millisecond), false},
		{"clearly slower, but idle", load(0, 25*time.Millisecond), load(5, 10*time.Millisecond), true},
		{"both too fast to tell", load(0, 20*time.Microsecond), load(0, 900*time.Microsecond), false},
		{"slow, and nothing is known of the other", load(0, time.Second), load(0, 0), false},
	} {
		if got := balance.Better(c.b, c.a, 1); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// simulate deals out requests to servers that take the given time for each (they serve any number at once), one every
// interval, and returns how many each got.
func simulate(requests int, interval time.Duration, latencies ...time.Duration) []int {
	loads := make([]balance.Load, len(latencies))
	type event struct {
		at, took int64
		server   int
	}
	var pending []event
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // that it is the same each time is the point
	got := make([]int, len(latencies))
	now := int64(time.Second)
	for turn := range requests {
		now += int64(interval)
		rest := pending[:0]
		for _, e := range pending {
			if e.at > now {
				rest = append(rest, e)
				continue
			}
			loads[e.server].End()
			loads[e.server].Sample(e.at, e.took)
		}
		pending = rest
		a, b := balance.Pair(len(latencies), uint32(turn), random.Uint64())
		if balance.Better(&loads[b], &loads[a], now) {
			a = b
		}
		got[a]++
		loads[a].Begin()
		took := int64(latencies[a])
		pending = append(pending, event{now + took, took, a})
	}
	return got
}

// Equals get equal shares, at any load; who is slower gets less, but never nothing.
func TestSharesAreFair(t *testing.T) {
	for _, c := range []struct {
		interval  time.Duration
		latencies []time.Duration
		least     []int // of 10,000
		most      []int
	}{
		{time.Second, []time.Duration{ms10, ms10, ms10, ms10}, []int{2500, 2500, 2500, 2500}, []int{2500, 2500, 2500, 2500}},
		{time.Millisecond, []time.Duration{ms10, ms10, ms10, ms10}, []int{2300, 2300, 2300, 2300}, []int{2700, 2700, 2700, 2700}},
		{100 * time.Microsecond, []time.Duration{ms10, ms10, ms10, ms10}, []int{2300, 2300, 2300, 2300}, []int{2700, 2700, 2700, 2700}},
		// 50% noise is no difference.
		{time.Millisecond, []time.Duration{ms10, 15 * time.Millisecond}, []int{4500, 3500}, []int{6500, 5500}},
		// One of three is ten times slower.
		{time.Millisecond, []time.Duration{ms10, ms10, 10 * ms10}, []int{4500, 4500, 5}, []int{5500, 5500, 1000}},
	} {
		t.Run(fmt.Sprint(c.interval, c.latencies), func(t *testing.T) {
			got := simulate(10_000, c.interval, c.latencies...)
			for i, n := range got {
				if n < c.least[i] || n > c.most[i] {
					t.Errorf("%v", got)
				}
			}
		})
	}
}

const ms10 = 10 * time.Millisecond

func TestPairs(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // that it is the same each time is the point
	var firsts, seconds [5]int
	for turn := range 10_000 {
		a, b := balance.Pair(5, uint32(turn), random.Uint64())
		if a == b {
			t.Fatalf("%d twice", a)
		}
		firsts[a]++
		seconds[b]++
	}
	for i := range 5 {
		if firsts[i] != 2000 || seconds[i] < 1800 || seconds[i] > 2200 {
			t.Errorf("first %v, second %v", firsts, seconds)
		}
	}
}

func BenchmarkChoose(b *testing.B) {
	var loads [10]balance.Load
	for i := range loads {
		for range 7 {
			loads[i].Sample(1, int64(i+1)*ms)
		}
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		turn := uint32(0)
		for pb.Next() {
			turn++
			i, j := balance.Pair(len(loads), turn, rand.Uint64()) //nolint:gosec // no secret
			if balance.Better(&loads[j], &loads[i], ms) {
				i = j
			}
			loads[i].Begin()
			loads[i].End()
		}
	})
}
