package check

import (
	"context"
	"fmt"
	"slices"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/tulle-mesh/tulle/internal/install"
	"github.com/tulle-mesh/tulle/internal/status"
)

// caWarning is how long before the CA's end the check fails, as the alert TulleIdentityCAEnds fires.
const caWarning = 14 * 24 * time.Hour

// identities says whether the proxies can prove for whom they call, and for how long: what the CA is, which nodes can't be
// called by tunnel, and what the proxies say of their certificates.
func (m *mesh) identities(ctx context.Context) ([]Finding, error) {
	if m.status == nil || m.status.Leader.Engine != nil {
		return nil, nil
	}
	i := m.status.Leader.Identity
	if i == nil {
		return []Finding{{Level: Note, Message: "identity.mode is off: calls between nodes are in the clear"}}, nil
	}
	out := authority(i, time.Now())
	if i.NodesWithoutProxy > 0 {
		out = append(out, Finding{
			Level: Note, Message: fmt.Sprintf("%d nodes have pods and no ready proxy: protected pods there can be called from their own node only: %s", i.NodesWithoutProxy, some(i.WithoutProxy)),
			Next: "docs/identity.md, between nodes",
		})
	}
	if i.PlainNodes > 0 {
		out = append(out, Finding{
			Level: Note, Message: fmt.Sprintf("calls to %d nodes are in the clear: the proxies there know of no identities", i.PlainNodes),
			Next: "wait until the roll-out of the proxies ends",
		})
	}
	held, err := m.held(ctx)
	more := certificates(held, time.Now())
	if len(more) > 0 && m.pause(ctx) { // a new pod's identity has none for a moment
		held, err = m.held(ctx)
		more = certificates(held, time.Now())
	}
	if err != nil {
		return out, err
	}
	if len(out) == 0 && len(more) == 0 && len(held) > 0 {
		n, first := 0.0, time.Time{}
		for _, h := range held {
			n += h.svids
			if first.IsZero() || h.first.Before(first) {
				first = h.first
			}
		}
		text := fmt.Sprintf("%.0f certificates of identities are valid, the first ends %s", n, first.UTC().Format(time.RFC3339))
		if !i.CAEnds.IsZero() { // SPIRE's is SPIRE's to watch
			text += ", the CA " + i.CAEnds.Format(time.DateOnly)
		}
		return []Finding{{Level: OK, Message: text}}, nil
	}
	return append(out, more...), nil
}

// signers says whether somebody is there who certifies identities.
func (m *mesh) signers(ctx context.Context) ([]Finding, error) {
	s, err := install.SignersOf(ctx, m.Cluster, m.Namespace, m.settings)
	switch {
	case err != nil || s == nil:
		return nil, err
	case s.Missing:
		return []Finding{{Level: Failed, Message: "tulle-identity is not there: nobody certifies identities", Next: "`tulle upgrade` brings it back"}}, nil
	case s.Available >= s.Wanted:
		return []Finding{{Level: OK, Message: fmt.Sprintf("%d of tulle-identity certify identities", s.Available)}}, nil
	}
	return m.available(ctx, s.Available, s.Wanted, "identity", "of tulle-identity"), nil
}

// authority says what is wrong with the CA.
func authority(i *status.Identity, now time.Time) []Finding {
	const next = "docs/runbook.md, TulleIdentityNoCA"
	switch left := i.CAEnds.Sub(now); {
	case i.Mode == "spire":
		return nil
	case i.CAEnds.IsZero():
		return []Finding{{Level: Failed, Message: "no CA is there to sign identities with", Next: next}}
	case left < 0:
		return []Finding{{Level: Failed, Message: "the CA that signs identities has ended", Next: next}}
	case left < caWarning:
		return []Finding{{Level: Failed, Message: "the CA that signs identities ends " + i.CAEnds.Format(time.RFC3339), Next: "docs/runbook.md, TulleIdentityCAEnds"}}
	}
	return nil
}

// held is what a proxy says of its identities.
type held struct {
	pod                        string
	identities, svids, overdue float64
	first                      time.Time // to end
}

// held asks the proxies that run.
func (m *mesh) held(ctx context.Context) ([]held, error) {
	all := make([]held, len(m.pods))
	if err := m.metrics(ctx, func(i int, families map[string]*dto.MetricFamily) {
		if families["tulle_proxy_identities"] == nil {
			return // it knows of none
		}
		all[i] = held{
			pod: m.pods[i].Name, identities: gauge(families["tulle_proxy_identities"]), svids: gauge(families["tulle_proxy_svids"]),
			overdue: gauge(families["tulle_proxy_svids_overdue"]),
			first:   time.Unix(int64(gauge(families["tulle_proxy_svid_expiry_timestamp_seconds"])), 0),
		}
	}); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(h held) bool { return h.pod == "" }), nil
}

func gauge(f *dto.MetricFamily) float64 {
	total := 0.0
	for _, metric := range f.GetMetric() {
		total += metric.GetGauge().GetValue()
	}
	return total
}

// certificates says which proxies lack some, or will.
func certificates(all []held, now time.Time) []Finding {
	var missing, overdue []string
	for _, h := range all {
		if n := h.identities - h.svids; n > 0 {
			missing = append(missing, fmt.Sprintf("%s (%.0f of %.0f)", h.pod, n, h.identities))
		}
		if h.overdue > 0 {
			overdue = append(overdue, fmt.Sprintf("%s (%.0f, the first ends in %s)", h.pod, h.overdue, h.first.Sub(now).Round(time.Second)))
		}
	}
	var out []Finding
	if len(missing) > 0 {
		out = append(out, Finding{Level: Failed, Message: "identities without a valid certificate: " + some(missing), Next: "docs/runbook.md, TulleIdentityMissing"})
	}
	if len(overdue) > 0 {
		out = append(out, Finding{Level: Failed, Message: "certificates that should have been renewed: " + some(overdue), Next: "docs/runbook.md, TulleIdentityOverdue"})
	}
	return out
}
