//go:build linux

package main

import (
	"math"
	"testing"
	"time"
)

func TestCollections(t *testing.T) {
	type collection struct {
		after   time.Duration // the one before
		live    int64         // MiB
		percent int
	}
	for name, tc := range map[string]struct {
		limit int64
		all   []collection
	}{
		"seldom":             {1 << 30, []collection{{10 * time.Second, 40, 100}, {2 * time.Minute, 40, 100}}},
		"often":              {1 << 30, []collection{{3 * time.Second, 40, 320}, {9 * time.Second, 40, 320}, {9 * time.Second, 64, 200}}},
		"not so often":       {1 << 30, []collection{{3 * time.Second, 40, 320}, {33 * time.Second, 40, 100}, {12 * time.Second, 40, 100}}},
		"of nothing much":    {1 << 30, []collection{{time.Second, 2, 400}, {time.Second, 0, 400}, {40 * time.Second, 2, 100}}},
		"of much":            {1 << 30, []collection{{3 * time.Second, 300, 100}}},
		"with little memory": {256 << 20, []collection{{3 * time.Second, 16, 200}, {3 * time.Second, 64, 100}}},
		"without a limit":    {math.MaxInt64, []collection{{3 * time.Second, 40, 320}}},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Unix(0, 0)
			c := newCollections(tc.limit, now)
			for i, x := range tc.all {
				now = now.Add(x.after)
				if got := c.next(now, x.live<<20); got != x.percent {
					t.Errorf("after collection %d the heap may grow by %d %%, want %d %%", i, got, x.percent)
				}
			}
		})
	}
}
