package traefik

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	ptypes "github.com/traefik/paerser/types"
	"github.com/traefik/traefik/v2/pkg/config/dynamic"

	"github.com/tulle-mesh/tulle/internal/breaker"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// connectAttempts is how many endpoints are tried if none can be connected to, as by the mesh's own proxy.
const connectAttempts = 5

// nobody is an address that no caller has.
const nobody = "255.255.255.255/32"

// passage is what happens to requests that are let through.
type passage struct {
	attempts int
	breaker  string
	rate     topology.Rate
}

// middlewares of a router that lets through, in the order in which a request meets them. The header by which the mesh's own
// proxy says who calls is nobody else's to write: an empty value takes it away.
func (r *renderer) middlewares(t httpTarget) []string {
	p := passage{attempts(t), t.unit.Breaker, t.unit.Rate}
	if r.open[p] != nil {
		return r.open[p]
	}
	names := []string{r.middleware("unforged", &dynamic.Middleware{Headers: &dynamic.Headers{CustomRequestHeaders: map[string]string{"X-Forwarded-Client-Cert": ""}}})}
	if p.rate.Average > 0 {
		limit := &dynamic.RateLimit{Average: int64(p.rate.Average), Burst: int64(p.rate.Burst), Period: ptypes.Duration(time.Second)}
		names = append(names, r.middleware(fmt.Sprintf("rate-%d-%d", p.rate.Average, p.rate.Burst), &dynamic.Middleware{RateLimit: limit}))
	}
	if p.breaker != "" {
		names = append(names, r.middleware("breaker-"+digest(p.breaker), &dynamic.Middleware{CircuitBreaker: breakerOf(p.breaker)}))
	}
	if p.attempts > 1 {
		names = append(names, r.middleware("retry-"+strconv.Itoa(p.attempts), &dynamic.Middleware{Retry: &dynamic.Retry{Attempts: p.attempts}}))
	}
	r.open[p] = names
	return names
}

// breakerOf is a circuit breaker with Traefik's own periods. The topology has expressions that can be parsed only.
func breakerOf(expression string) *dynamic.CircuitBreaker {
	c := &dynamic.CircuitBreaker{}
	c.SetDefaults()
	if e, err := breaker.Parse(expression); err == nil {
		c.Expression = e.ForTraefik()
	}
	return c
}

// digest makes a name of what can't be one.
func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:6])
}

// attempts is how often a request is sent at most. Traefik repeats one only if nothing of it was written, which is always
// safe; but it draws anew between the backends of a split, so there it is left to those who ask for it: a canary that
// refuses connections shall not look healthy.
func attempts(t httpTarget) int {
	if len(t.shares) > 1 {
		return 1 + t.port.RetryAttempts
	}
	return max(connectAttempts, 1+t.port.RetryAttempts)
}

// closedMiddlewares refuse everything with 403 and say why.
func (r *renderer) closedMiddlewares() []string {
	return []string{
		r.middleware("closed-reason", &dynamic.Middleware{Headers: &dynamic.Headers{CustomResponseHeaders: map[string]string{"Tulle-Reason": "access-denied"}}}),
		r.middleware("closed", &dynamic.Middleware{IPAllowList: &dynamic.IPAllowList{SourceRange: []string{nobody}}}),
	}
}

func (r *renderer) middleware(name string, m *dynamic.Middleware) string {
	r.http.Middlewares[name] = m
	return name
}
