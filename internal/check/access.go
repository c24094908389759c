package check

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/install"
	"github.com/tulle-mesh/tulle/internal/observed"
)

// mostDenials is how many kinds of denials are listed.
const mostDenials = 25

// access lists what would be denied where access control is in audit mode, as the proxies saw it.
func (m *mesh) access(ctx context.Context) ([]Finding, error) {
	if len(m.pods) == 0 {
		return nil, nil // as the check of the proxies says
	}
	reports, missing, err := install.ReadObserved(ctx, m.Cluster, m.Namespace, "")
	if err != nil {
		return []Finding{{Level: Note, Message: fmt.Sprintf("could not ask the proxies what an audit found: %v", err), Next: "proxies of an older version need `tulle upgrade`; docs/access-control.md says which rights it takes"}}, nil
	}
	out := audited(observed.Merge(reports))
	if names := slices.Collect(maps.Keys(missing)); len(names) > 0 {
		out = append(out, Finding{Level: Note, Message: "did not say what an audit found: " + some(names), Next: "check again; proxies of an older version need `tulle upgrade`"})
	}
	return out, nil
}

// audited makes findings of what was seen. It is silent where nothing is audited.
func audited(m observed.Merged) []Finding {
	calls, lost := m.Audited()
	denials := m.Denials()
	var out []Finding
	switch {
	case len(denials) > 0:
		denied := uint64(0)
		for _, d := range denials {
			denied += d.Count
		}
		out = append(out, Finding{
			Level: Note, Message: fmt.Sprintf("%d of %d calls to workloads in audit mode would be denied, by the policies that are in use now", denied, calls),
			Next: "`tulle policy generate --from-observed` proposes what would allow them; `tulle why` explains one",
		})
	case calls > 0:
		out = append(out, Finding{Level: OK, Message: fmt.Sprintf("none of %d calls to workloads in audit mode would be denied", calls)})
	}
	for i, d := range denials {
		if i == mostDenials {
			out = append(out, Finding{Level: Note, Message: fmt.Sprintf("and %d kinds of denials more", len(denials)-i), Next: "`tulle policy observed --denied` lists them all"})
			break
		}
		out = append(out, Finding{Level: Note, Message: describe(d)})
	}
	if lost > 0 {
		out = append(out, Finding{Level: Note, Message: fmt.Sprintf("%d calls in audit mode are not part of this: there were too many kinds to keep", lost), Next: "tulle_proxy_access_audit_total counts all denials; proxies that are restarted begin anew"})
	}
	return out
}

func describe(d observed.Denial) string {
	since := d.First.UTC().Format(time.RFC3339)
	if last := d.Last.UTC().Format(time.RFC3339); last != since {
		since += ", last " + last
	}
	return fmt.Sprintf("%s to %s, port %d by %s (Service %s): %s, %d times since %s",
		cmp.Or(d.From, "somebody without identity"), d.To, d.Port, d.Protocol, d.Service, d.Reason, d.Count, since)
}
