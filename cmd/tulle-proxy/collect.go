//go:build linux

package main

import (
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// collections decides how much the heap may grow until it is collected again. While the collector works it takes a quarter
// of the CPU, and makes who needs memory help it: requests take some milliseconds longer. If the heap may only double, as is
// usual, that is so for more than a hundredth of the time where connections come and go by the thousand.
type collections struct {
	room    int64 // bytes by which the heap may grow, within the bounds of percent
	percent int   // of what is in use, by which the heap may grow
	last    time.Time
}

const (
	// seldom is how far collections have to be apart, on a heap that doubles, not to be noticed.
	seldom = 10 * time.Second
	// usual and largest are the bounds of percent.
	usual, largest = 100, 400
	// mostRoom is as much as an eighth of the memory that the chart grants a proxy.
	mostRoom = 128 << 20
)

func newCollections(limit int64, now time.Time) *collections {
	return &collections{room: min(limit/8, mostRoom), percent: usual, last: now}
}

// next says by how many percent the heap may grow, after a collection that has left so many bytes in use.
func (c *collections) next(now time.Time, live int64) int {
	apart := now.Sub(c.last) * usual / time.Duration(c.percent) // they would have been, had it doubled
	c.last, c.percent = now, usual
	if apart < seldom {
		c.percent = int(min(max(c.room*100/max(live, 1), usual), largest))
	}
	return c.percent
}

// fewCollections sees to collections for as long as the process lives, unless GOGC says otherwise.
func fewCollections(log *slog.Logger) {
	if os.Getenv("GOGC") != "" {
		return
	}
	c := newCollections(debug.SetMemoryLimit(-1), time.Now())
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	var after func(struct{})
	watch := func() { runtime.AddCleanup(new([64]byte), after, struct{}{}) } // it is collected with all else
	after = func(struct{}) {
		metrics.Read(live)
		before := c.percent
		if p := c.next(time.Now(), int64(live[0].Value.Uint64())); p != before { // #nosec G115 -- bytes of this machine
			debug.SetGCPercent(p)
			log.Debug("heap may grow", "percent", p)
		}
		watch()
	}
	watch()
}
