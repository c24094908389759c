package check

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/status"
)

// certificatesOf is what a proxy's metrics say of its identities.
func certificatesOf(identities, svids, overdue int) string {
	text := ""
	for name, value := range map[string]int64{
		"tulle_proxy_identities": int64(identities), "tulle_proxy_svids": int64(svids), "tulle_proxy_svids_overdue": int64(overdue),
		"tulle_proxy_svid_expiry_timestamp_seconds": time.Now().Add(20 * time.Minute).Unix(),
	} {
		text += fmt.Sprintf("# TYPE %s gauge\n%s %d\n", name, name, value)
	}
	return text
}

// inPodsWith is inPods where the proxies say other things of their identities.
func inPodsWith(metrics string) func(context.Context, string, string, int, string) ([]byte, error) {
	rest := inPods("")
	return func(ctx context.Context, namespace, pod string, port int, path string) ([]byte, error) {
		if port == 15020 {
			return []byte(metrics), nil
		}
		return rest(ctx, namespace, pod, port, path)
	}
}

// SPIRE's CA is SPIRE's to watch, and proxies of a version without identities say nothing of certificates.
func TestIdentitiesOfOthers(t *testing.T) {
	for what, tc := range map[string]struct {
		identity *status.Identity
		metrics  string
		want     int
	}{
		"SPIRE's":      {&status.Identity{Mode: "spire"}, certificatesOf(3, 0, 1), 2},
		"SPIRE is up":  {&status.Identity{Mode: "spire"}, certificatesOf(3, 3, 0), 1},
		"old proxies":  {&status.Identity{Mode: "tulle", CAEnds: time.Now().Add(time.Hour * 10000), PlainNodes: 1}, "", 1},
		"of our own":   {&status.Identity{Mode: "tulle", CAEnds: time.Now().Add(time.Hour * 10000)}, certificatesOf(3, 0, 0), 1},
		"everything":   {&status.Identity{Mode: "tulle", PlainNodes: 1, NodesWithoutProxy: 1}, certificatesOf(3, 1, 1), 5},
		"all is right": {&status.Identity{Mode: "tulle", CAEnds: time.Now().Add(time.Hour * 10000)}, certificatesOf(3, 3, 0), 1},
	} {
		c, _ := newChecker(t, running)
		c.Cluster.Ask = inPodsWith(tc.metrics)
		m := &mesh{Checker: c, status: &status.Status{Leader: status.Leader{Identity: tc.identity}}}
		if _, err := m.proxies(t.Context()); err != nil {
			t.Fatal(err)
		}
		got, err := m.identities(t.Context())
		if err != nil || len(got) != tc.want || len(got) == 1 && (got[0].Level == OK) != (what == "all is right" || what == "SPIRE is up") {
			t.Errorf("%s: %+v, %v", what, got, err)
		}
	}
}
