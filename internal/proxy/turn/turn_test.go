package turn_test

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/turn"
)

// rounds begin when the test says so.
type rounds struct {
	*turn.Rounds
	end chan struct{}
}

func newRounds(t *testing.T) *rounds {
	r := &rounds{end: make(chan struct{})}
	r.Rounds = turn.New(turn.Config{CPUs: 1, Look: func() { <-r.end }})
	t.Cleanup(func() { close(r.end) })
	return r
}

// next lets a round end, and what waits for that run.
func (r *rounds) next() {
	r.end <- struct{}{}
	synctest.Wait()
}

// crowd is many who want a turn of one namespace.
type crowd struct {
	mu   sync.Mutex
	gone []int // who has had a turn
}

func (c *crowd) add(n int, take func()) {
	for i := range n {
		go func() {
			take()
			c.mu.Lock()
			defer c.mu.Unlock()
			c.gone = append(c.gone, i)
		}()
		synctest.Wait() // so that who comes first is known
	}
}

// had says how many have had their turn.
func (c *crowd) had() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.gone)
}

func TestNobodyWaitsForHimself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, all := newRounds(t), &crowd{}
		q := r.Queue()
		all.add(600, q.Begin)
		for _, want := range []int{256, 512, 600} {
			if all.had() != want || slices.Max(all.gone) != want-1 {
				t.Errorf("alone a namespace has had %d turns instead of %d, up to the one who came as %d.", all.had(), want, slices.Max(all.gone))
			}
			if want < 600 {
				r.next()
			}
		}
	})
}

// What is no namespace has as many turns in a round, however many wait for one, and whoever else is there.
func TestWhatIsNoNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, all := newRounds(t), &crowd{}
		beside := r.Uncounted()
		r.Queue().Begin()
		r.Queue().Begin()
		all.add(20, beside.Begin)
		for _, want := range []int{8, 16, 20} {
			if all.had() != want {
				t.Errorf("it has had %d turns instead of %d", all.had(), want)
			}
			if want < 20 {
				r.next()
			}
		}
	})
}

func TestTheQuietDontWaitForTheLoud(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, loud, quiet, late := newRounds(t), &crowd{}, &crowd{}, &crowd{}
		noisy, shop, third := r.Queue(), r.Queue(), r.Queue()
		shop.Begin()
		loud.add(300, noisy.Begin)
		if loud.had() != 64 {
			t.Errorf("beside another one a namespace has %d turns in a round", loud.had())
		}
		quiet.add(64, shop.Begin)
		if quiet.had() != 63 {
			t.Errorf("the other one had 1 and has %d", quiet.had())
		}
		r.next()
		if loud.had() != 65 || quiet.had() != 64 {
			t.Errorf("in the next round, those who wait have %d and %d", loud.had()-64, quiet.had()-63)
		}
		late.add(100, third.Begin)
		if late.had() != 42 {
			t.Errorf("beside two others a namespace has %d turns in a round", late.had())
		}
		quiet.add(10, shop.Begin)
		if quiet.had() != 74 {
			t.Errorf("the quiet one has %d", quiet.had()-64)
		}
		if shop.Waited() != 0 || noisy.Waited() != 0 {
			t.Error("no time has passed") // synctest's clock stands still
		}
		for loud.had() < 300 || late.had() < 100 {
			r.next()
		}
	})
}

func TestWhatHasBegunComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, fresh, underway := newRounds(t), &crowd{}, &crowd{}
		q := r.Queue()
		r.Queue().Begin()
		fresh.add(64+80, q.Begin)
		underway.add(10, q.GoOn)
		for range 10 {
			r.next()
		}
		if underway.had() != 10 || fresh.had() != 64 {
			t.Errorf("of 10 that have begun %d go on, of 80 that have not %d", underway.had(), fresh.had()-64)
		}
		r.next()
		if fresh.had() != 65 {
			t.Errorf("then %d begin", fresh.had()-64)
		}
		for range 16 {
			r.next()
		}
		if fresh.had() != 64+80 {
			t.Errorf("once a round has turns for all, %d of %d have had one", fresh.had()-64, 80)
		}
	})
}

func TestNamespacesAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, all := newRounds(t), &crowd{}
		q, other, beside := r.Queue(), r.Queue(), r.Uncounted()
		other.Begin()
		for range 2 {
			beside.Begin() // is no namespace
			all.add(65, q.Begin)
			if all.had()%65 != 64 {
				t.Errorf("%d have had a turn", all.had())
			}
			<-time.After(1100 * time.Millisecond)
			r.next()
		}
		if q.Waited() != 2*1100*time.Millisecond {
			t.Errorf("two have waited for %v", q.Waited())
		}
		all.add(300, q.Begin)
		if all.had() != 2*65+256 {
			t.Errorf("alone again it has %d turns", all.had()-2*65)
		}
	})
}
