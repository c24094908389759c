package policy

import (
	"time"

	"github.com/tulle-mesh/tulle/internal/access"
	"github.com/tulle-mesh/tulle/internal/observed"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
)

// record notes what no rule allows, and keeps what is called in audit mode. It is the one place for both. What goes on to
// another node's proxy is for that one to record, as the last word is its.
func (g *Gate) record(table *route.Table, c Call, v access.Verdict) {
	if v.Allow && c.Peer.Tunnel == nil && c.Endpoint.Tunnelled() {
		return
	}
	if v.Audit {
		g.observe(table, c, v)
	}
	if v.Reason != "" {
		g.note(table, c, v)
	}
}

func (g *Gate) observe(table *route.Table, c Call, v access.Verdict) {
	who, _ := g.callerOf(table, c.Peer)
	if who.Standing != access.Known && who.Standing != access.Stale {
		who.Identity = access.Identity{}
	}
	g.seen.Record(observed.Seen{
		From: who.Identity, To: c.Endpoint.Workload(), Service: c.Port.Service.Name, Port: c.Port.Number,
		Protocol: protocolName(c.Port), Request: c.Request, Reason: v.Reason,
	}, time.Now())
}

// Observed is what was called in audit mode since the Gate was made, as far as want accepts it; nil accepts all.
func (g *Gate) Observed(want func(observed.Peers) bool) observed.Report {
	return g.seen.Report(time.Now(), want)
}
