package route

import (
	"fmt"
	"math/rand/v2"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/breaker"
	"github.com/tulle-mesh/tulle/internal/proxy/balance"
	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
)

// Guard keeps HTTP requests from a service that can't take them. Its state outlives config changes that don't concern it.
// It is safe for concurrent use.
type Guard struct {
	start   time.Time // of the times that what follows knows
	limit   limit
	rate    *balance.Rate    // nil = no limit
	circuit *breaker.Circuit // nil = none
	retries *balance.Budget
}

type limit struct{ average, burst uint32 }

// since is the time since the guard's start, never 0.
func (g *Guard) since(t time.Time) int64 { return int64(t.Sub(g.start)) }

// newGuard makes a Guard, with the state of the one before (nil if there is none) as far as what it says is the same.
func newGuard(s *configv1.Service, old *Guard) (*Guard, error) {
	g := &Guard{limit: limit{s.GetRateLimit().GetAverage(), s.GetRateLimit().GetBurst()}}
	if old == nil {
		old = &Guard{start: time.Now().Add(-time.Second), retries: &balance.Budget{}}
	}
	g.start, g.retries = old.start, old.retries
	switch {
	case g.limit.average == 0:
	case g.limit == old.limit:
		g.rate = old.rate
	default:
		g.rate = balance.NewRate(g.limit.average, g.limit.burst)
	}
	if s.GetCircuitBreaker() == "" {
		return g, nil
	}
	e, err := breaker.Parse(s.GetCircuitBreaker())
	if err != nil {
		return nil, fmt.Errorf("circuit breaker: %w", err)
	}
	if old.circuit != nil && old.circuit.Expression().String() == e.String() {
		g.circuit = old.circuit
	} else {
		g.circuit = breaker.New(e)
	}
	return g, nil
}

// Admit says why a request that began at a time may not be sent; empty if it may.
func (g *Guard) Admit(at time.Time) refusal.Reason {
	if g.rate != nil && !g.rate.Allow(g.since(at)) {
		return refusal.RateLimited
	}
	if g.circuit != nil && !g.circuit.Allow(g.since(at), rand.Uint64()) { //nolint:gosec // no secret
		return refusal.CircuitOpen
	}
	g.retries.Request()
	return ""
}

// Retry says whether there may be another attempt at a request.
func (g *Guard) Retry(a balance.Allowance) bool { return g.retries.Retry(g.since(time.Now()), a) }

// Watches says that Record wants to know how requests end.
func (g *Guard) Watches() bool { return g.circuit != nil }

// Record takes in how a request that was admitted ended, and says whether that opened the circuit.
func (g *Guard) Record(now time.Time, a breaker.Answer) (opened bool) {
	return g.circuit != nil && g.circuit.Record(g.since(now), a)
}
