package policy

import (
	"sync/atomic"

	"github.com/tulle-mesh/tulle/internal/access"
)

// live is a connection that was let through.
type live struct {
	call     Call
	cut      func()
	recorded atomic.Pointer[access.Workload] // the policy in audit mode that it was recorded for
}

// Watch keeps an eye on what was let through and lives on: cut ends it when a new policy forbids it. done is called when
// it has ended. It is not ok, and not watched, if it is forbidden by now.
func (g *Gate) Watch(c Call, cut func()) (done func(), ok bool) {
	l := &live{call: c, cut: cut}
	g.mu.Lock()
	g.live[l] = struct{}{}
	g.mu.Unlock()
	done = func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.live, l)
	}
	if v := g.still(c); v.Allow {
		if v.Audit {
			l.recorded.Store(g.policyOf(c)) // by Judge
		}
		return done, true
	}
	done()
	return nil, false
}

// still judges a live connection. One whose caller was let through stays when the identity is merely not confirmed.
func (g *Gate) still(c Call) access.Verdict {
	table, _ := g.config.Current()
	v, _ := g.judge(table, c)
	if v.Reason == access.IdentityStale {
		v.Allow = true
	}
	return v
}

// Recheck ends what the policies that are in use now forbid. What is older than an audit, or than the policy that it is
// about, is recorded as if it began now: it would be cut when the audit ends.
func (g *Gate) Recheck() {
	g.mu.Lock()
	all := make([]*live, 0, len(g.live))
	for l := range g.live {
		all = append(all, l)
	}
	g.mu.Unlock()
	for _, l := range all {
		w, v := g.policyOf(l.call), g.still(l.call)
		if !v.Allow || v.Audit && l.recorded.Swap(w) != w {
			table, _ := g.config.Current()
			g.record(table, l.call, v)
		}
		if !v.Allow {
			g.config.Meter.Cut(protocolName(l.call.Port), string(v.Reason))
			l.cut()
		}
	}
}
