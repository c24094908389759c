// Package policy enforces access control in the data plane. A Gate knows the policies in use and who is at the other end
// of a connection, and decides by package access; it waits for identities that are on their way, counts and logs what no
// rule allows, records what is called in audit mode, and ends live connections that a new policy forbids.
//
// All engines ask the Gate, with a Call: who calls which port, and which endpoint was chosen. A Gate has no goroutines
// and is safe for concurrent use; Add, Remove and Recheck are called by who applies config.
package policy

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/access"
	"github.com/tulle-mesh/tulle/internal/observed"
	"github.com/tulle-mesh/tulle/internal/proxy/meter"
	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// Config is what a Gate needs.
type Config struct {
	// Current returns the table in use, and what is closed once there is a newer one.
	Current func() (*route.Table, <-chan struct{})
	Meter   *meter.Meter
	Log     *slog.Logger
	// Wait is how long a call waits for the identity of a caller that nobody knows yet; default 5 s, negative: not at all.
	Wait time.Duration
	// Gateways are addresses that no pod will have: whoever calls from them has no identity, and is not waited for. Calls
	// from the node itself come by the address of the pods' gateway in most networks, which may be among those of pods.
	Gateways []netip.Addr
}

// Gate decides who may pass.
type Gate struct {
	config   Config
	compiler access.Compiler
	policies atomic.Pointer[map[string]*access.Workload] // by workload; the map is immutable
	log      denials
	seen     *observed.Store // what was called in audit mode

	mu   sync.Mutex
	live map[*live]struct{} // guarded by mu
}

// New returns a Gate without policies.
func New(c Config) *Gate {
	c.Wait = cmp.Or(c.Wait, 5*time.Second)
	g := &Gate{config: c, live: map[*live]struct{}{}, log: denials{said: map[denial]*saying{}}, seen: observed.NewStore(observed.Limits{}, time.Now())}
	g.policies.Store(&map[string]*access.Workload{})
	return g
}

// Peer is who is at the other end of a connection.
type Peer struct {
	Address netip.Addr
	// Tunnel is set for who calls through another node's proxy: then the address says nothing.
	Tunnel *route.Tunnelled
}

// Call is what is judged.
type Call struct {
	Peer     Peer
	Port     *route.Port // that was called
	Endpoint *upstream.Endpoint
	Request  *access.Request // nil = no HTTP
}

// Add takes policies into use, each in place of the one before. Endpoints that are protected by them come after.
func (g *Gate) Add(policies map[string]*access.Workload) {
	if len(policies) == 0 {
		return
	}
	next := maps.Clone(*g.policies.Load())
	maps.Copy(next, policies)
	g.policies.Store(&next)
	g.seen.Outdate(func(workload string) bool { return policies[workload] != nil })
}

// Remove ends the use of policies. Endpoints that were protected by them are not any more, or everything is denied them.
func (g *Gate) Remove(names []string) {
	if len(names) == 0 {
		return
	}
	next := maps.Clone(*g.policies.Load())
	gone := map[string]bool{}
	for _, n := range names {
		delete(next, n)
		gone[n] = true
	}
	g.policies.Store(&next)
	g.seen.Outdate(func(workload string) bool { return gone[workload] })
}

// Compile makes what Add takes. If a policy can't be used, the one before stays, and without one everything is denied.
func (g *Gate) Compile(name string, p *configv1.Policy) (*access.Workload, error) {
	w, err := g.compiler.Compile(p)
	if err == nil {
		return w, nil
	}
	return cmp.Or((*g.policies.Load())[name], access.DenyAll()), err
}

// Judge decides on a call. It waits a moment for the identity of a caller that is new. The caller of Judge refuses what
// is not allowed.
func (g *Gate) Judge(ctx context.Context, c Call) access.Verdict {
	table, changed := g.config.Current()
	v, hope := g.judge(table, c)
	if hope {
		enough := time.NewTimer(g.config.Wait)
		defer enough.Stop()
		for waiting := true; hope && waiting; v, hope = g.judge(table, c) {
			select {
			case <-changed:
			case <-enough.C:
				waiting = false
			case <-ctx.Done():
				waiting = false
			}
			table, changed = g.config.Current()
		}
	}
	g.record(table, c, v)
	return v
}

// judge decides by what is known now. hope says that it may turn out better in a moment.
func (g *Gate) judge(table *route.Table, c Call) (v access.Verdict, hope bool) {
	w := g.policyOf(c)
	if w == nil && c.Endpoint.Protected() {
		return access.Verdict{Reason: access.NoPolicy}, false
	}
	if w == nil {
		return access.Verdict{Allow: true}, false
	}
	who, certain := g.callerOf(table, c.Peer)
	v = access.Decide(who, w, access.Port{Number: c.Port.Number, Protocol: protocolOf(c.Port)}, c.Request)
	hope = !v.Allow && v.Reason == access.UnknownCaller && !certain && !c.Port.UDP() && g.config.Wait > 0
	return v, hope
}

// policyOf is what protects the endpoint of a call; nil if nothing does, or nothing that is known.
func (g *Gate) policyOf(c Call) *access.Workload { return (*g.policies.Load())[c.Endpoint.Workload()] }

// callerOf says who calls. certain is false if nobody is known by an address that may be a new pod's.
func (g *Gate) callerOf(table *route.Table, p Peer) (c access.Caller, certain bool) {
	if p.Tunnel != nil {
		return proven(p.Tunnel), true
	}
	if known := table.Callers[p.Address]; known != nil {
		c.Identity = access.Identity{Namespace: known.Namespace, ServiceAccount: known.ServiceAccount}
		c.Standing = access.Known
		if known.Expired() {
			c.Standing = access.Stale
		}
		return c, true
	}
	switch {
	case table.NodeAddresses[p.Address]:
		return c, true
	case table.OfThisNode(p.Address):
		return c, slices.Contains(g.config.Gateways, p.Address)
	}
	return access.Caller{Standing: access.Elsewhere}, true
}

// proven says who calls from another node.
func proven(t *route.Tunnelled) (c access.Caller) {
	if t.Caller == nil {
		return c
	}
	c.Identity = access.Identity{Namespace: t.Caller.Namespace, ServiceAccount: t.Caller.ServiceAccount}
	c.Standing = access.Known
	if !t.Valid() {
		c.Standing = access.Stale
	}
	return c
}

// Caller says for whom a call is made to another node: nobody, unless the caller is known now.
func (g *Gate) Caller(p Peer) upstream.Caller {
	table, _ := g.config.Current()
	who, _ := g.callerOf(table, p)
	if who.Standing != access.Known {
		return upstream.Caller{}
	}
	return upstream.Caller{Namespace: who.Namespace, ServiceAccount: who.ServiceAccount}
}

func protocolOf(p *route.Port) access.Protocol {
	switch p.Protocol {
	case configv1.Protocol_PROTOCOL_HTTP:
		return access.HTTP
	case configv1.Protocol_PROTOCOL_UDP:
		return access.UDP
	case configv1.Protocol_PROTOCOL_TCP, configv1.Protocol_PROTOCOL_UNSPECIFIED:
	}
	return access.TCP
}

// Told is what a client is told of a reason: the code, and a line for people.
func (g *Gate) Told(c Call, r refusal.Reason) (refusal.Reason, string) {
	table, _ := g.config.Current()
	told := r
	if r.Answer().Status == 403 && table.ReasonDetail == configv1.ReasonDetail_REASON_DETAIL_NONE {
		told = refusal.AccessDenied
	}
	text := told.Answer().Text
	if c.Endpoint != nil && table.ReasonDetail == configv1.ReasonDetail_REASON_DETAIL_FULL {
		who, _ := g.callerOf(table, c.Peer)
		text += ": " + describe(who) + " to " + c.Endpoint.Workload()
	}
	return told, text
}

func describe(c access.Caller) string {
	if c.Standing == access.Known || c.Standing == access.Stale {
		return c.String()
	}
	return "nobody known"
}
