//go:build linux

package holder

import (
	"strings"
	"testing"
	"time"
)

const ms = time.Millisecond

// TestWatch lets workers fall silent after their first beats and says when they are killed, if within 3 s.
func TestWatch(t *testing.T) {
	for name, c := range map[string]struct {
		every time.Duration // between two looks of the holder
		look  func(n int) map[int]thread
		want  time.Duration // of silence; 0 = not killed
	}{
		"stopped": {
			50 * ms, func(int) map[int]thread { return map[int]thread{1: {state: 'T'}, 2: {state: 'T'}} }, 450 * ms,
		},
		"deadlocked": {
			50 * ms, func(int) map[int]thread { return map[int]thread{1: {state: 'S'}, 2: {state: 'S'}} }, 450 * ms,
		},
		"deadlocked, accepts connections on a busy machine": {
			50 * ms, func(n int) map[int]thread {
				return map[int]thread{1: {state: 'S', ran: time.Duration(n) * ms, stood: time.Duration(n) * 20 * ms}}
			}, 450 * ms,
		},
		"spins on an idle machine": {
			50 * ms, func(n int) map[int]thread {
				return map[int]thread{1: {state: 'R', ran: time.Duration(n) * 50 * ms}, 2: {state: 'S'}}
			}, 650 * ms,
		},
		"gets no CPU": {
			50 * ms, func(int) map[int]thread { return map[int]thread{1: {state: 'S'}, 2: {state: 'R'}} }, 0,
		},
		"gets little CPU": {
			50 * ms, func(n int) map[int]thread {
				return map[int]thread{1: {state: 'S'}, 2: {state: 'S', ran: time.Duration(n) * 5 * ms, stood: time.Duration(n) * 45 * ms}}
			}, 0,
		},
		"waits for a disk": {
			50 * ms, func(int) map[int]thread { return map[int]thread{1: {state: 'S'}, 2: {state: 'D'}} }, 0,
		},
		"the holder is late itself": {
			500 * ms, func(int) map[int]thread { return map[int]thread{1: {state: 'S'}} }, 3000 * ms,
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := 0
			w := &watch{beat: 50 * ms, limit: 400 * ms, busy: 600 * ms, hard: 10 * time.Second}
			w.threads = func() (map[int]thread, error) { n++; return c.look(n), nil }
			w.tick(c.every, true)
			got := time.Duration(0)
			for silent := c.every; silent <= 3*time.Second && got == 0; silent += c.every {
				if w.tick(c.every, false) != "" {
					got = silent
				}
			}
			if got != c.want {
				t.Errorf("killed after %v, want %v", got, c.want)
			}
		})
	}
}

func TestWatchLimits(t *testing.T) {
	silence := func(w *watch, d time.Duration) string {
		for ; d > 0; d -= 50 * ms {
			if why := w.tick(50*ms, false); why != "" {
				return why
			}
		}
		return ""
	}
	starved := func() (map[int]thread, error) { return map[int]thread{1: {state: 'R'}}, nil }
	w := &watch{beat: 50 * ms, limit: 400 * ms, busy: 600 * ms, hard: 2 * time.Second, threads: starved}
	if why := silence(w, 1900*ms); why != "" {
		t.Errorf("a worker that starts was killed: %s", why)
	}
	w.tick(50*ms, true)
	if why := silence(w, 1900*ms); why != "" {
		t.Errorf("a beat did not end the silence: %s", why)
	}
	if why := silence(w, 200*ms); !strings.Contains(why, "2s") {
		t.Errorf("the hard limit passed: %q", why)
	}
}

func TestParseThread(t *testing.T) {
	for _, c := range []struct {
		stat, sched string
		want        thread
	}{
		{"12 (tulle-proxy) S 1 12 12 0 -1", "1000000 2000000 7\n", thread{'S', ms, 2 * ms}},
		{"12 (a) R (b) T 1 12", "5 6 7", thread{'T', 5, 6}},
		{"12 (x) D 1", "", thread{state: 'D'}},
		{"", "", thread{}},
		{"12 (x)", "nonsense here", thread{}},
	} {
		if got := parseThread([]byte(c.stat), []byte(c.sched)); got != c.want {
			t.Errorf("%q %q: %+v, want %+v", c.stat, c.sched, got, c.want)
		}
	}
}

func TestThreadsOfThisProcess(t *testing.T) {
	all, err := threads(1)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 || !strings.Contains("SRDT", string(all[1].state)) {
		t.Errorf("process 1: %+v", all)
	}
}

func TestStatus(t *testing.T) {
	now := time.Unix(0, 0)
	s := &status{grace: 2 * time.Second, now: func() time.Time { return now }}
	is := func(when string, ready, healthy bool) {
		t.Helper()
		if (s.readiness() == nil) != ready || (s.health() == nil) != healthy {
			t.Errorf("%s: readiness %v, health %v", when, s.readiness(), s.health())
		}
	}
	is("at first", false, true)
	s.workerGone(false)
	is("after a worker that never was ready", false, true)
	s.workerReady()
	is("ready", true, true)
	s.workerGone(false)
	now = now.Add(1900 * ms)
	is("within the grace", true, true)
	s.workerGone(false)
	now = now.Add(200 * ms)
	is("after the grace, which a second crash doesn't begin anew", false, true)
	s.workerReady()
	is("ready again", true, true)
	s.workerGone(true)
	is("in a loop", false, false)
	s.workerReady()
	is("ready in a loop", false, false)
	s.stable()
	is("stable", true, true)
	s.workerLeaves()
	is("others serve instead", false, true)
	s.workerReady()
	is("another worker that is about to end", false, true)
}
