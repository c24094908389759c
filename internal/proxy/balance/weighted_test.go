package balance_test

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tulle-mesh/tulle/internal/proxy/balance"
)

// T2: weights are whole and relative.
func TestWholeCyclesAreExact(t *testing.T) {
	for _, c := range []struct {
		weights []uint32
		picks   int
		want    []int
	}{
		{[]uint32{90, 10}, 100, []int{90, 10}},
		{[]uint32{90, 10}, 10, []int{9, 1}},
		{[]uint32{1000, 500}, 600, []int{400, 200}},
		{[]uint32{0, 100}, 50, []int{0, 50}},
		{[]uint32{5, 0, 3, 1}, 900, []int{500, 0, 300, 100}},
		{[]uint32{7}, 3, []int{3}},
		{[]uint32{1, 4294967295}, 1000, []int{0, 1000}},
	} {
		t.Run(fmt.Sprint(c.weights), func(t *testing.T) {
			w := balance.NewWeighted(c.weights)
			if got := count(w, len(c.weights), c.picks); !slices.Equal(got, c.want) {
				t.Errorf("picked %v of %d, want %v", got, c.picks, c.want)
			}
		})
	}
}

// Any window of a whole cycle is exact, not only the first.
func TestEveryWindowIsExact(t *testing.T) {
	w := balance.NewWeighted([]uint32{5, 3, 2})
	var picks []int
	for range 60 {
		picks = append(picks, w.Next())
	}
	for start := range 50 {
		got := make([]int, 3)
		for _, i := range picks[start : start+10] {
			got[i]++
		}
		if !slices.Equal(got, []int{5, 3, 2}) {
			t.Fatalf("picks %d to %d: %v", start, start+10, got)
		}
	}
}

func TestNothingToPick(t *testing.T) {
	for _, weights := range [][]uint32{nil, {0}, {0, 0}} {
		if got := balance.NewWeighted(weights).Next(); got != -1 {
			t.Errorf("%v: picked %d", weights, got)
		}
	}
}

func TestConcurrentPicksAreExact(t *testing.T) {
	w := balance.NewWeighted([]uint32{90, 10})
	var got [2]atomic.Int64
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range 100 {
				got[w.Next()].Add(1)
			}
		})
	}
	wg.Wait()
	if got[0].Load() != 900 || got[1].Load() != 100 {
		t.Errorf("picked %d and %d of 1000, want 900 and 100", got[0].Load(), got[1].Load())
	}
}

func count(w *balance.Weighted, items, picks int) []int {
	got := make([]int, items)
	for range picks {
		got[w.Next()]++
	}
	return got
}
