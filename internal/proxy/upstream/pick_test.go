package upstream_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// tally counts how often each endpoint is picked, by the last byte of its address.
func tally(g *upstream.Group, n int) map[byte]int {
	got := map[byte]int{}
	for range n {
		got[g.Pick().AddrPort().Addr().As4()[3]]++
	}
	return got
}

// endpointsOf are the endpoints of a group by the last byte of their addresses.
func endpointsOf(g *upstream.Group, n int) map[byte]*upstream.Endpoint {
	out := map[byte]*upstream.Endpoint{}
	for range 100 * n {
		e := g.Pick()
		out[e.AddrPort().Addr().As4()[3]] = e
	}
	return out
}

func TestSlowEndpointsGetLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := upstream.NewSet(upstream.Config{})
		g := s.Group(web)
		update(t, s, "shop/web", list("10.0.0.1", "10.0.0.2", "10.0.0.3"))
		all := endpointsOf(g, 3)
		now := time.Now()
		pass(100 * time.Millisecond)
		for range 10 {
			all[1].Answered(now.Add(90 * time.Millisecond))
			all[2].Answered(now.Add(85 * time.Millisecond))
			all[3].Answered(now)
		}
		got := tally(g, 9000)
		if got[3] != 0 || got[1] < 4000 || got[2] < 4000 {
			t.Errorf("at once: %v", got)
		}
		pass(time.Minute)
		if got := tally(g, 9000); got[3] != 3000 {
			t.Errorf("after a minute, when nothing is known any more: %v", got)
		}
	})
}

// pass lets virtual time pass.
func pass(d time.Duration) { <-time.After(d) }

func fail(e *upstream.Endpoint, times int) {
	for range times {
		e.Fault()
	}
}

func TestFailingEndpointsAreEjected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := upstream.NewSet(upstream.Config{SlowStart: -1})
		g := s.Group(web)
		update(t, s, "shop/web", list("10.0.0.1", "10.0.0.2", "10.0.0.3"))
		all := endpointsOf(g, 3)
		fail(all[1], 4)
		if got := tally(g, 300); got[1] != 100 {
			t.Errorf("after 4 failures: %v", got)
		}
		fail(all[1], 1)
		if got := tally(g, 300); got[1] != 0 {
			t.Errorf("after 5 failures: %v", got)
		}
		// Its health outlives config, as long as it is there.
		update(t, s, "shop/web", list("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"))
		if got := tally(g, 300); got[1] != 0 || got[4] != 100 {
			t.Errorf("after a change of config: %v", got)
		}
		if s.Ejections() != 1 || s.Ejected() != 1 {
			t.Errorf("%d ejections, %d ejected", s.Ejections(), s.Ejected())
		}
		pass(10*time.Second + time.Millisecond)
		if got := tally(g, 400); got[1] != 100 || s.Ejected() != 0 {
			t.Errorf("10 s later: %v", got)
		}
		fail(all[1], 1) // it fails at once
		pass(10*time.Second + time.Millisecond)
		if got := tally(g, 400); got[1] != 0 {
			t.Errorf("10 s after the second ejection: %v", got)
		}
		pass(10 * time.Second)
		if got := tally(g, 400); got[1] != 100 {
			t.Errorf("20 s after the second ejection: %v", got)
		}
	})
}

// However many fail, half of them stay in use: those that are ejected for the shortest time.
func TestEjectionHasAFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := upstream.NewSet(upstream.Config{SlowStart: -1})
		g := s.Group(web)
		update(t, s, "shop/web", list("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"))
		all := endpointsOf(g, 5)
		for i := range byte(5) {
			fail(all[i+1], 5)
			pass(time.Second)
		}
		got := tally(g, 300)
		if got[1] != 100 || got[2] != 100 || got[3] != 100 {
			t.Errorf("all of 5 failed: %v", got)
		}

		alone := s.Group(upstream.Key{Service: "shop/alone", Port: 80})
		update(t, s, "shop/alone", list("10.0.1.1"))
		fail(alone.Pick(), 100)
		if alone.Pick() == nil {
			t.Error("the only one is ejected")
		}
	})
}

// A retry is better off with an ejected endpoint than with none.
func TestEjectedEndpointsAreTheLastResort(t *testing.T) {
	s := upstream.NewSet(upstream.Config{})
	g := s.Group(web)
	update(t, s, "shop/web", list("10.0.0.1", "10.0.0.2"))
	all := endpointsOf(g, 2)
	fail(all[1], 5)
	if g.Pick() != all[2] || g.Pick(all[2]) != all[1] || g.Pick(all[1], all[2]) != nil {
		t.Error("not the one that is left")
	}
}

func TestNewEndpointsStartSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := upstream.NewSet(upstream.Config{})
		g := s.Group(web)
		update(t, s, "shop/web", list("10.0.0.1", "10.0.0.2"))
		if got := tally(g, 1000); got[1] != 500 {
			t.Errorf("the first ones wait for nobody: %v", got)
		}
		update(t, s, "shop/web", list("10.0.0.1", "10.0.0.2", "10.0.0.3"))
		for _, c := range []struct {
			wait        time.Duration
			least, most int
		}{{0, 50, 200}, {5 * time.Second, 400, 600}, {5 * time.Second, 1000, 1000}} {
			pass(c.wait)
			if got := tally(g, 3000); got[3] < c.least || got[3] > c.most {
				t.Errorf("after %v more: %v", c.wait, got)
			}
		}
		fail(endpointsOf(g, 3)[3], 5)
		pass(10*time.Second + time.Millisecond)
		if got := tally(g, 3000); got[3] < 50 || got[3] > 200 {
			t.Errorf("back from an ejection: %v", got)
		}
	})
}

// places are endpoints in zones: {"a": 2} is two endpoints in zone a, each on a node of its own.
func placed(prefer configv1.Prefer, zones ...string) *configv1.Endpoints {
	e := list()
	e.Prefer = prefer
	for i, z := range zones {
		e.Ports[0].Endpoints = append(e.Ports[0].Endpoints, &configv1.Endpoint{
			Address: fmt.Sprintf("10.0.0.%d", i+1), Port: 80, Zone: z, Node: fmt.Sprint("node-", i+1),
		})
	}
	return e
}

func TestNearEndpointsArePreferred(t *testing.T) {
	const none, zone, node = configv1.Prefer_PREFER_NONE, configv1.Prefer_PREFER_ZONE, configv1.Prefer_PREFER_NODE
	for _, c := range []struct {
		name  string
		here  upstream.Place
		given *configv1.Endpoints
		want  map[byte]int // of 6,000, roughly
	}{
		{"nothing is preferred", upstream.Place{Zone: "a"}, placed(none, "a", "b", "c"), map[byte]int{1: 2000, 2: 2000, 3: 2000}},
		{"the zone has its share", upstream.Place{Zone: "a"}, placed(zone, "a", "b", "c"), map[byte]int{1: 6000}},
		{"the zone has more", upstream.Place{Zone: "a"}, placed(zone, "a", "a", "b"), map[byte]int{1: 3000, 2: 3000}},
		// Half of what a third of the traffic needs: half of it stays, the rest goes to all.
		{"the zone is short", upstream.Place{Zone: "a"}, placed(zone, "a", "b", "b", "b", "c", "c"), map[byte]int{1: 3500, 2: 500, 3: 500, 4: 500, 5: 500, 6: 500}},
		{"the zone has none", upstream.Place{Zone: "d"}, placed(zone, "a", "b"), map[byte]int{1: 3000, 2: 3000}},
		{"the proxy's zone is unknown", upstream.Place{}, placed(zone, "a", ""), map[byte]int{1: 3000, 2: 3000}},
		{"the node", upstream.Place{Zone: "a", Node: "node-2"}, placed(node, "a", "a", "b"), map[byte]int{2: 6000}},
		{"the node has none", upstream.Place{Zone: "b", Node: "node-9"}, placed(node, "a", "b"), map[byte]int{2: 6000}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := upstream.NewSet(upstream.Config{})
			g := s.Group(web)
			update(t, s, "shop/web", c.given)
			s.Locate(c.here)
			got := tally(g, 6000)
			for i, n := range got {
				if n < c.want[i]-300 || n > c.want[i]+300 {
					t.Errorf("got %v, want %v", got, c.want)
				}
			}
		})
	}
}

// Who is ejected is no capacity.
func TestEjectionsSpillOver(t *testing.T) {
	s := upstream.NewSet(upstream.Config{})
	g := s.Group(web)
	update(t, s, "shop/web", placed(configv1.Prefer_PREFER_ZONE, "a", "a", "b", "b"))
	everyone := endpointsOf(g, 4)
	s.Locate(upstream.Place{Zone: "a"})
	if got := tally(g, 1000); got[1] != 500 || got[2] != 500 {
		t.Errorf("all well: %v", got)
	}
	fail(everyone[1], 5)
	if got := tally(g, 3000); got[1] != 0 || got[2] < 2100 || got[3] == 0 || got[4] == 0 {
		t.Errorf("one of two near ones is ejected: %v", got) // two thirds stay, and a third of the rest
	}
	near := everyone[2]
	if e := g.Pick(near); e == near || e == nil {
		t.Error("a retry stays near where nobody is left")
	}
}

func BenchmarkPick(b *testing.B) {
	for _, n := range []int{1, 3, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := upstream.NewSet(upstream.Config{})
			g := s.Group(web)
			var addresses []string
			for i := range n {
				addresses = append(addresses, fmt.Sprintf("10.0.0.%d", i+1))
			}
			if err := s.Update("shop/web", list(addresses...)); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					began := time.Now()
					e := g.PickAt(began)
					e.Begin()
					e.Answered(began)
					e.End()
				}
			})
		})
	}
}
