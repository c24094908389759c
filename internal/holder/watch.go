//go:build linux

package holder

import (
	"fmt"
	"strings"
	"time"
)

// watch judges whether a silent worker hangs. A worker that gets no CPU is slow, not hung, and killing it would make
// things worse; so silence counts only while the holder itself gets its time and no thread of the worker waits for a
// CPU or a disk. It is used by one goroutine.
type watch struct {
	beat    time.Duration // how often a worker beats
	limit   time.Duration // counted silence of a worker that does nothing
	busy    time.Duration // counted silence of a worker that uses CPU
	hard    time.Duration // silence that is too long whatever the reason
	threads func() (map[int]thread, error)

	beaten  bool // once at least
	silent  time.Duration
	counted time.Duration
	last    map[int]thread
	ran     time.Duration // CPU time since the silence began
}

// tick is called every beat with the time since the last call and whether a beat came meanwhile. It returns why the
// worker is to be killed, "" if it isn't.
func (w *watch) tick(elapsed time.Duration, beaten bool) string {
	if beaten {
		w.beaten = true
		w.silent, w.counted, w.ran, w.last = 0, 0, 0, nil
		return ""
	}
	w.silent += elapsed
	if w.silent >= w.hard {
		return fmt.Sprintf("no sign of life for %v", w.silent)
	}
	if !w.beaten || w.silent < 2*w.beat { // It starts, or the beat is just late: nothing is worth a look.
		return ""
	}
	now, err := w.threads()
	if err != nil {
		return "" // It is ending; the kernel will tell.
	}
	starved, ran := compare(w.last, now, elapsed)
	w.last = now
	w.ran += ran
	if starved {
		return ""
	}
	// When the holder is late, so may be the worker.
	w.counted += min(elapsed, w.beat*3/2)
	limit := w.limit
	if w.ran > w.silent/4 {
		limit = w.busy
	}
	if w.counted < limit {
		return ""
	}
	return fmt.Sprintf("no sign of life for %v, threads %s, used CPU for %v", w.silent, states(now), w.ran)
}

// compare says whether a thread was kept from running by a lack of CPU for most of the time between two looks, or by a
// disk, and how long all threads ran in it. Short waits don't count: a few come with every wake-up on a busy machine,
// and a deadlocked worker goes on to accept connections.
func compare(before, after map[int]thread, elapsed time.Duration) (starved bool, ran time.Duration) {
	for id, t := range after {
		was, ok := before[id]
		if !ok {
			was = t
		}
		waited := t.stood - was.stood
		if t.state == 'R' && ok { // It may wait still, which the kernel counts when that is over.
			waited = max(waited, elapsed-(t.ran-was.ran))
		}
		ran += t.ran - was.ran
		starved = starved || t.state == 'D' || waited > elapsed*6/10
	}
	return starved, ran
}

// states counts threads by state, e.g. "12 S 1 R".
func states(threads map[int]thread) string {
	var b strings.Builder
	for _, s := range "RSDTtZXI" {
		n := 0
		for _, t := range threads {
			if rune(t.state) == s {
				n++
			}
		}
		if n > 0 {
			fmt.Fprintf(&b, " %d %c", n, s)
		}
	}
	return strings.TrimSpace(b.String())
}
