package observed_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/access"
	"github.com/tulle-mesh/tulle/internal/observed"
)

// call is one that may be made in TestProposalAllowsWhatWasSeen.
type call struct {
	from, to     string
	port         uint32
	protocol     string
	method, path string
}

var served = map[string]map[uint32]string{
	"shop/web": {80: "http", 8080: "http", 81: "tcp", 53: "udp"},
	"shop/db":  {80: "http", 5432: "tcp", 53: "udp"},
}

func anyCall(r *rand.Rand) call {
	c := call{from: pick(r, "shop/a", "shop/b", "other/a", "shop/true"), to: pick(r, "shop/web", "shop/web", "shop/db")}
	c.port = pick[uint32](r, 80, 80, 80, 8080, 81, 53, 5432)
	if c.protocol = served[c.to][c.port]; c.protocol == "" {
		return anyCall(r)
	}
	if c.protocol == "http" {
		c.method = pick(r, "GET", "GET", "POST", "NO")
		c.path = pick(r, "", "/v1", "/a.b", "/x(y)") + pick(r, "/", "/items", "/items/17", "/items/18/", "/items/17x", "/d/2026-01-02", "/'q'", "/%C3%A9", "/0123456789abcdef")
	}
	return c
}

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

// like is the same call, or one that differs in one respect.
func (c call) like(r *rand.Rand) call {
	other := anyCall(r)
	switch r.IntN(8) {
	case 0:
		c.from = other.from
	case 1:
		c.port, c.protocol = other.port, served[c.to][other.port]
		if c.protocol == "" {
			return other
		}
		if c.protocol == "http" && c.path == "" {
			c.method, c.path = "GET", "/"
		}
		if c.protocol != "http" {
			c.method, c.path = "", ""
		}
	case 2, 3:
		if c.protocol == "http" && other.protocol == "http" {
			c.method = other.method
		}
	case 4, 5:
		if c.protocol == "http" && other.protocol == "http" {
			c.path = other.path
		}
	}
	return c
}

// What was seen is allowed by what is proposed. What was not is denied: neither another source, port or method, nor a path
// of another pattern gets in. Who saw it, which proxy, does not matter.
func TestProposalAllowsWhatWasSeen(t *testing.T) {
	allowed, denied := 0, 0
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 1))
		stores := []*observed.Store{observed.NewStore(observed.Limits{}, time.Unix(0, 0)), observed.NewStore(observed.Limits{}, time.Unix(1, 0))}
		seen := map[call]bool{}
		var calls []call
		for i := range 1 + r.IntN(25) {
			c := anyCall(r)
			record(pick(r, stores...), c, time.Unix(int64(i), 0))
			seen[c.kind()] = true
			calls = append(calls, c)
		}
		m := observed.Merge([]observed.Report{stores[0].Report(time.Unix(99, 0), nil), stores[1].Report(time.Unix(99, 0), nil)})
		out := observed.Generate(m)
		j := newJudge(t, out, m)
		for range 200 {
			c := pick(r, calls...).like(r)
			want := seen[c.kind()]
			if got := j.allows(c.from, c.to, c.port, c.protocol, c.method, c.path); got != want {
				t.Fatalf("seed %d: %+v is allowed: %v, was seen: %v\n%s", seed, c, got, want, out)
			}
			if want {
				allowed++
			} else {
				denied++
			}
		}
	}
	t.Logf("%d calls were allowed, %d denied", allowed, denied)
	if allowed < 5000 || denied < 5000 {
		t.Error("too few of a kind")
	}
}

// kind is what calls are told apart by.
func (c call) kind() call {
	if c.protocol == "http" {
		c.path = observed.Pattern(c.path, false)
	}
	return c
}

func record(s *observed.Store, c call, now time.Time) {
	namespace, account, _ := strings.Cut(c.from, "/")
	seen := observed.Seen{
		From: access.Identity{Namespace: namespace, ServiceAccount: account}, To: c.to, Service: c.to, Port: c.port, Protocol: c.protocol,
		Reason: access.NoTarget,
	}
	if c.protocol == "http" {
		seen.Request = &access.Request{Method: c.method, Path: c.path}
	}
	s.Record(seen, now)
}

// Names that are too many at one place become any name, for the method that they were seen with and for no other.
func TestFoldedNames(t *testing.T) {
	s := observed.NewStore(observed.Limits{}, time.Unix(0, 0))
	for i := range 30 {
		record(s, call{"shop/a", "shop/web", 80, "http", "GET", "/users/" + name(i) + "/cart"}, time.Unix(1, 0))
	}
	record(s, call{"shop/a", "shop/web", 80, "http", "DELETE", "/users/b/cart"}, time.Unix(1, 0))
	m := observed.Merge([]observed.Report{s.Report(time.Unix(2, 0), nil)})
	out := observed.Generate(m)
	j := newJudge(t, out, m)
	for request, want := range map[string]bool{
		"GET /users/never-seen/cart": true, "GET /users/never-seen": false, "GET /users/a/b/cart": false, "GET /users//cart": false,
		"DELETE /users/b/cart": true, "DELETE /users/c/cart": false, "POST /users/b/cart": false,
	} {
		method, path, _ := strings.Cut(request, " ")
		if got := j.allows("shop/a", "shop/web", 80, "http", method, path); got != want {
			t.Errorf("%s is allowed: %v\n%s", request, got, out)
		}
	}
	if !strings.Contains(string(out), "# wider: any name at #any\n") {
		t.Errorf("it does not say that it is wider:\n%s", out)
	}
}

func name(i int) string { return fmt.Sprintf("%c%c", 'a'+i/26, 'a'+i%26) }

// Nobody without an identity is ever proposed, whatever a policy said later.
func TestStrangersAreNotProposed(t *testing.T) {
	for _, reason := range []access.Reason{access.UnknownCaller, access.IdentityStale, access.CallerNotLocal} {
		s := observed.NewStore(observed.Limits{}, time.Unix(0, 0))
		seen := observed.Seen{To: "shop/web", Service: "shop/web", Port: 80, Protocol: "http", Reason: reason, Request: &access.Request{Method: "GET", Path: "/"}}
		if reason == access.IdentityStale {
			seen.From = access.Identity{Namespace: "shop", ServiceAccount: "a"}
		}
		s.Record(seen, time.Unix(1, 0))
		s.Outdate(func(string) bool { return true })
		out := string(observed.Generate(observed.Merge([]observed.Report{s.Report(time.Unix(2, 0), nil)})))
		if strings.Contains(out, "\n---") || !strings.Contains(out, "not proposed: 1 call") || !strings.Contains(out, string(reason)) {
			t.Errorf("%s:\n%s", reason, out)
		}
	}
}
