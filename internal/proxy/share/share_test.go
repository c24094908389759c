package share_test

import (
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/share"
)

// take takes as much as it gets, and says how much that was.
func take(a *share.Account, most int) (n int) {
	for range most {
		if a.Begin() {
			n++
		}
	}
	return n
}

func TestTheGreedyIsRefusedFirst(t *testing.T) {
	n := share.New(share.Config{Requests: 100})
	greedy, modest, small := n.Account("greedy"), n.Account("modest"), n.Account("small")
	if got := take(greedy, 1000); got != 100 {
		t.Errorf("alone it gets %d of 100", got)
	}
	if got := take(modest, 10); got != 10 {
		t.Errorf("who has less than its share gets %d of 10", got)
	}
	if take(greedy, 1) != 0 {
		t.Error("who has more than its share got more")
	}
	if got := take(modest, 1000); got != 40 {
		t.Errorf("up to its share of 50 it gets %d more", got)
	}
	if got := take(small, 1000); got != 33 {
		t.Errorf("the third one gets %d", got)
	}
	for range 100 {
		greedy.End()
	}
	// There is enough again, for anybody.
	if got := take(small, 1000); got != 17 {
		t.Errorf("once there is enough: %d more", got)
	}
	n.EachTenant(func(name string, _, requests, _ int64) {
		if want := map[string]int64{"modest": 50, "small": 50}[name]; requests != want {
			t.Errorf("%s uses %d", name, requests)
		}
	})
}

// Bytes come in amounts; who is refused one may get a smaller one.
func TestBytesAreSharedAsAmounts(t *testing.T) {
	n := share.New(share.Config{Bytes: 1000})
	greedy, modest := n.Account("greedy"), n.Account("modest")
	for _, c := range []struct {
		account *share.Account
		bytes   int64
		want    bool
	}{
		{greedy, 700, true},
		{greedy, 301, false},
		{greedy, 300, true},
		{greedy, 1, false},
		{modest, 500, true}, // its share
		{modest, 1, false},
	} {
		if got := c.account.Buffer(c.bytes); got != c.want {
			t.Errorf("%d bytes: %v", c.bytes, got)
		}
	}
	n.EachTenant(func(name string, connections, requests, bytes int64) {
		if want := map[string]int64{"greedy": 1000, "modest": 500}[name]; bytes != want || connections != 0 || requests != 0 {
			t.Errorf("%s has %d bytes, %d connections, %d requests", name, bytes, connections, requests)
		}
	})
	greedy.Release(1000)
	modest.Release(500)
	n.EachTenant(func(name string, _, _, bytes int64) { t.Errorf("%s has %d bytes left", name, bytes) })
	if !modest.Buffer(1000) || greedy.Buffer(501) {
		t.Error("who has nothing any more counts still")
	}
	if none := (*share.Account)(nil); !none.Buffer(1 << 40) {
		t.Error("no account is one without limits")
	} else {
		none.Release(1 << 40)
	}
}

func TestNoLimit(t *testing.T) {
	n := share.New(share.Config{})
	a := n.Account("")
	if take(a, 1000) != 1000 || n.Account("") != a {
		t.Error("refused without a limit")
	}
	for range 1000 {
		if !a.Connect(time.Unix(1, 0)) {
			t.Fatal("refused without a limit")
		}
	}
}

func TestNothingIsLost(t *testing.T) {
	n := share.New(share.Config{Requests: 10})
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "a"} {
		wg.Go(func() {
			a := n.Account(name)
			for range 10_000 {
				if a.Begin() {
					a.End()
				}
			}
		})
	}
	wg.Wait()
	n.EachTenant(func(name string, _, requests, _ int64) { t.Errorf("%s still uses %d", name, requests) })
	if got := take(n.Account("d"), 100); got != 10 {
		t.Errorf("%d of 10 are there", got)
	}
}

func TestNewConnectionsPerSecond(t *testing.T) {
	n := share.New(share.Config{Rate: 100})
	greedy, modest := n.Account("greedy"), n.Account("modest")
	connect := func(a *share.Account, at time.Time, most int) (n int) {
		for range most {
			if a.Connect(at) {
				a.Disconnect()
				n++
			}
		}
		return n
	}
	now := time.Unix(1000, 0)
	if got := connect(greedy, now, 1000); got != 100 {
		t.Errorf("alone it gets %d", got)
	}
	if got := connect(modest, now.Add(time.Second/2), 1000); got != 50 {
		t.Errorf("the other one gets %d", got)
	}
	if connect(greedy, now.Add(time.Second/2), 10) != 0 {
		t.Error("who had more than its share got more")
	}
	if got := connect(greedy, now.Add(time.Second), 1000); got != 100 {
		t.Errorf("a second later it gets %d", got)
	}
}

func BenchmarkRequests(b *testing.B) {
	a := share.New(share.Config{Requests: 8192}).Account("shop")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if a.Begin() {
				a.End()
			}
		}
	})
}

// Who takes nothing doesn't make the others' shares smaller, whatever becomes of it.
func TestNothingIsNoShare(t *testing.T) {
	n := share.New(share.Config{Bytes: 100})
	one, other := n.Account("one"), n.Account("other")
	if !one.Buffer(0) || !one.Buffer(10) {
		t.Fatal("there is room")
	}
	one.Release(0)
	one.Release(10)
	if !other.Buffer(100) || !one.Buffer(50) || one.Buffer(1) {
		t.Error("of two, each has half of the bytes")
	}
}
