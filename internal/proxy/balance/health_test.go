package balance_test

import (
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/balance"
)

var rules = balance.Rules{Failures: 3, Least: 10 * time.Second, Most: time.Minute}

const second = int64(time.Second)

func TestFailuresInARowEject(t *testing.T) {
	var h balance.Health
	now := second
	for range 10 {
		for range rules.Failures - 1 {
			if h.Fail(now, rules) {
				t.Fatal("ejected before the third failure in a row")
			}
		}
		h.Succeed(now)
	}
	h.Fail(now, rules)
	h.Fail(now, rules)
	if !h.Fail(now, rules) || !h.Ejected(now) || !h.Ejected(now+10*second-1) || h.Ejected(now+10*second) {
		t.Errorf("until %v, want 10 s", time.Duration(h.Until()-now))
	}
	if h.Fail(now+second, rules) || h.Until() != now+10*second {
		t.Error("a failure while it is ejected counts")
	}
}

// Who is back and fails at once is out for twice as long, up to the limit.
func TestEjectionsGetLonger(t *testing.T) {
	var h balance.Health
	now := second
	h.Fail(now, rules)
	h.Fail(now, rules)
	for _, want := range []int64{10, 20, 40, 60, 60} {
		if !h.Fail(now, rules) {
			t.Fatal("not ejected by the first failure after an ejection")
		}
		if got := (h.Until() - now) / second; got != want {
			t.Errorf("out for %d s, want %d", got, want)
		}
		now = h.Until() + second
	}
}

// A success makes it three failures again; good for as long as it was out, all is forgotten.
func TestEjectionsAreForgotten(t *testing.T) {
	var h balance.Health
	eject := func(now int64) int64 {
		t.Helper()
		for range rules.Failures {
			if h.Fail(now, rules) {
				return (h.Until() - now) / second
			}
		}
		t.Fatal("not ejected")
		return 0
	}
	now := second
	eject(now)
	now += 11 * second
	h.Succeed(now)
	if h.Fail(now, rules) {
		t.Error("ejected by the first failure after a success")
	}
	h.Succeed(now)
	if got := eject(now); got != 20 {
		t.Errorf("the second ejection lasts %d s", got)
	}
	now += 41 * second
	h.Succeed(now)
	if got := eject(now); got != 10 {
		t.Errorf("after a good time it lasts %d s", got)
	}
	now += 1000 * second // nobody called
	if got := eject(now); got != 10 {
		t.Errorf("after a long time it lasts %d s", got)
	}
}

func TestNoRulesNoEjection(t *testing.T) {
	var h balance.Health
	for range 1000 {
		if h.Fail(second, balance.Rules{}) {
			t.Fatal("ejected")
		}
	}
}

func TestNewcomersWarmUp(t *testing.T) {
	const window = 10 * time.Second
	admitted := func(since, now int64) int {
		n := 0
		for i := range uint64(1000) {
			if balance.Admits(since, now, window, i<<54) {
				n++
			}
		}
		return n
	}
	for after, want := range map[int64]int{0: 100, 1: 100, 5: 500, 9: 900, 10: 1000, 100: 1000} {
		if got := admitted(second, second+after*second); got < want-25 || got > want+25 {
			t.Errorf("after %d s: %d of 1000", after, got)
		}
	}
	if got := admitted(0, second); got != 1000 {
		t.Errorf("one that is not new: %d", got)
	}
}
