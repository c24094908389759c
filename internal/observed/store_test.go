package observed

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/internal/access"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func at(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }

// get is a request by shop/client.
func get(path string) Seen {
	return Seen{
		From: access.Identity{Namespace: "shop", ServiceAccount: "client"}, To: "shop/web", Service: "shop/web", Port: 80, Protocol: "http",
		Request: &access.Request{Method: "GET", Path: path},
	}
}

// lines writes a report for comparison.
func lines(r Report) []string {
	var out []string
	if r.Lost > 0 {
		out = append(out, fmt.Sprintf("lost %d", r.Lost))
	}
	for _, e := range r.Edges {
		out = append(out, fmt.Sprintf("%s to %s (%s) %d/%s lost %d", e.From, e.To, e.Service, e.Port, e.Protocol, e.Lost))
		for _, c := range e.Calls {
			out = append(out, fmt.Sprintf("  %d %s %s %q past=%v %v..%v", c.Count, c.Method, c.Path, c.Reason, c.Past, c.First.Sub(start), c.Last.Sub(start)))
		}
	}
	return out
}

func TestStore(t *testing.T) {
	s := NewStore(Limits{}, start)
	s.Record(get("/items/1"), at(1))
	s.Record(get("/items/2"), at(2))
	denied := get("/items/2")
	denied.Reason = access.RouteDenied
	s.Record(denied, at(3))
	odd := get("/")
	odd.Request.Method = "get"
	s.Record(odd, at(4))
	nobody := get("/secret")
	nobody.From, nobody.Reason = access.Identity{}, access.UnknownCaller
	s.Record(nobody, at(5))
	db := Seen{From: get("").From, To: "shop/db", Service: "shop/db", Port: 5432, Protocol: "tcp"}
	s.Record(db, at(6))
	want := []string{
		"shop/client to shop/db (shop/db) 5432/tcp lost 0", `  1   "" past=false 6s..6s`,
		" to shop/web (shop/web) 80/http lost 0", `  1   "unknown-caller" past=false 5s..5s`,
		"shop/client to shop/web (shop/web) 80/http lost 0", `  1 #other / "" past=false 4s..4s`,
		`  2 GET /items/#number "" past=false 1s..2s`, `  1 GET /items/#number "route-denied" past=false 3s..3s`,
	}
	r := s.Report(at(9), nil)
	if diff := cmp.Diff(want, lines(r)); diff != "" {
		t.Error(diff)
	}
	if err := r.Validate(); err != nil || r.Since != start || r.Until != at(9) {
		t.Error(err, r.Since, r.Until)
	}
	if got := lines(s.Report(at(9), To("shop/db"))); len(got) != 2 {
		t.Errorf("of one destination: %v", got)
	}
}

// What a policy said is past when the policy is; it is kept, for proposals.
func TestOutdate(t *testing.T) {
	s := NewStore(Limits{Calls: 2}, start)
	denied := get("/a")
	denied.Reason = access.NoTarget
	s.Record(denied, at(1))
	s.Outdate(func(w string) bool { return w == "shop/web" })
	s.Record(denied, at(2))
	s.Outdate(func(w string) bool { return w == "shop/other" })
	s.Outdate(func(w string) bool { return w == "shop/web" })
	s.Record(get("/a"), at(3)) // for which there is room, since the two denials are one
	want := []string{"shop/client to shop/web (shop/web) 80/http lost 0", `  1 GET /a "" past=false 3s..3s`, `  2 GET /a "no-target" past=true 1s..2s`}
	if diff := cmp.Diff(want, lines(s.Report(at(4), nil))); diff != "" {
		t.Error(diff)
	}
}

func TestStoreIsBounded(t *testing.T) {
	s := NewStore(Limits{Calls: 5, PeerCalls: 3}, start)
	for _, to := range []string{"shop/a", "shop/b", "shop/c"} {
		for i := range 5 {
			c := get("/" + string(rune('a'+i)))
			c.To = to
			s.Record(c, at(i))
		}
	}
	again := get("/a") // what is known is counted however full it is
	again.To = "shop/a"
	s.Record(again, at(9))
	r := s.Report(at(9), nil)
	if len(r.Edges) != 2 || len(r.Edges[0].Calls) != 3 || r.Edges[0].Lost != 2 || len(r.Edges[1].Calls) != 2 || r.Edges[1].Lost != 3 || r.Lost != 5 {
		t.Error(lines(r))
	}
	if r.Edges[0].Calls[0].Count != 2 {
		t.Error(lines(r))
	}
}

func TestStoreIsSafe(t *testing.T) {
	s := NewStore(Limits{}, start)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 1000 {
				s.Record(get(fmt.Sprintf("/p%d", i%7)), at(i))
				if i%100 == 0 {
					s.Outdate(func(string) bool { return true })
				}
			}
		})
	}
	wg.Wait()
	m := Merge([]Report{s.Report(at(1), nil)})
	total := uint64(0)
	for _, c := range m.Edges[0].Calls {
		total += c.Count
	}
	if total != 4000 {
		t.Errorf("%d of 4000 calls were counted", total)
	}
}

func TestRecordAllocatesNothing(t *testing.T) {
	s := NewStore(Limits{}, start)
	c := get("/items/17/3fa85f64-5717-4562-b3fc-2c963f66afa6/parts")
	s.Record(c, start)
	if n := testing.AllocsPerRun(100, func() { s.Record(c, start) }); n > 0 {
		t.Errorf("%v allocations for a call of a known kind", n)
	}
}

func BenchmarkRecord(b *testing.B) {
	s := NewStore(Limits{}, start)
	c := get("/items/17/parts")
	b.ReportAllocs()
	for b.Loop() {
		s.Record(c, start)
	}
}
