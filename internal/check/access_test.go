package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/internal/access"
	"github.com/tulle-mesh/tulle/internal/observed"
)

// audit is what a proxy saw: calls of shop/client to shop/web, one after the other in the first minute of 2026.
func audit(pod string, calls ...observed.Seen) observed.Report {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := observed.NewStore(observed.Limits{Calls: 100, PeerCalls: 2}, begin)
	for i, c := range calls {
		c.From, c.To, c.Service, c.Port, c.Protocol = access.Identity{Namespace: "shop", ServiceAccount: "client"}, "shop/web", "shop/front", 80, "http"
		s.Record(c, begin.Add(time.Duration(i+1)*time.Second))
	}
	r := s.Report(begin.Add(time.Minute), nil)
	r.Pod = pod
	return r
}

func request(path string, reason access.Reason) observed.Seen {
	return observed.Seen{Request: &access.Request{Method: "GET", Path: path}, Reason: reason}
}

func TestAuditedDenialsAreListed(t *testing.T) {
	past := audit("p-1", request("/", access.NoTarget))
	past.Edges[0].Calls[0].Past = true
	for name, tc := range map[string]struct {
		reports []observed.Report
		want    []string
	}{
		"no audit": {[]observed.Report{audit("p-1")}, nil},
		"past":     {[]observed.Report{past}, nil},
		"fine":     {[]observed.Report{audit("p-1", request("/", ""), request("/", ""))}, []string{"ok: none of 2 calls to workloads in audit mode would be denied"}},
		"two proxies": {
			[]observed.Report{audit("p-1", request("/1", access.RouteDenied), request("/", "")), audit("p-2", request("/x", access.RouteDenied), request("/", access.BadPath))},
			[]string{
				"note: 3 of 4 calls to workloads in audit mode would be denied, by the policies that are in use now",
				"note: shop/client to shop/web, port 80 by http (Service shop/front): route-denied, 2 times since 2026-01-01T00:00:01Z",
				"note: shop/client to shop/web, port 80 by http (Service shop/front): bad-path, 1 times since 2026-01-01T00:00:02Z",
			},
		},
		"too many kinds": {
			[]observed.Report{audit("p-1", request("/a", ""), request("/b", ""), request("/c", ""), request("/d", ""))},
			[]string{"ok: none of 2 calls to workloads in audit mode would be denied", "note: 2 calls in audit mode are not part of this: there were too many kinds to keep"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, f := range audited(observed.Merge(tc.reports)) {
				got = append(got, fmt.Sprintf("%s: %s", f.Level, f.Message))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The whole way: proxies are found and asked, each by itself.
func TestProxiesAreAskedForAudits(t *testing.T) {
	c, s, _ := newMesh(t, running, room, otherNode)
	putStatus(t, s, healthy())
	answer := func(_ context.Context, _, pod string, port int, path string) ([]byte, error) {
		switch {
		case port != 15000 || path != "/observed?to=":
			return inPods("")(t.Context(), "tulle-system", pod, port, path)
		case pod == "p-2":
			return nil, errors.New("status 404")
		}
		return json.Marshal(audit(pod, request("/", access.NoTarget)))
	}
	findings := func() string {
		var out []string
		for _, f := range c.Installed(t.Context(), nil).Findings {
			if f.Check == "access" {
				out = append(out, fmt.Sprintf("%s: %s", f.Level, f.Message))
			}
		}
		return strings.Join(out, "\n")
	}
	c.Cluster.Ask = answer
	want := `note: 1 of 1 calls to workloads in audit mode would be denied, by the policies that are in use now
note: shop/client to shop/web, port 80 by http (Service shop/front): no-target, 1 times since 2026-01-01T00:00:01Z
note: did not say what an audit found: p-2`
	if diff := cmp.Diff(want, findings()); diff != "" {
		t.Error(diff)
	}
	c.Cluster.Ask = func(context.Context, string, string, int, string) ([]byte, error) {
		return nil, errors.New("forbidden")
	}
	if got := findings(); got != "note: could not ask the proxies what an audit found: forbidden" {
		t.Error(got)
	}
}
