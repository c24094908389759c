package check

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/install"
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

func TestSigners(t *testing.T) {
	const deployment = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: tulle-identity, namespace: tulle-system}, spec: {replicas: 2}, status: {availableReplicas: %d}}`
	const pod = `{apiVersion: v1, kind: Pod, metadata: {name: i-1, namespace: tulle-system, labels: {app.kubernetes.io/name: tulle, app.kubernetes.io/component: identity}}, status: {conditions: [{type: PodScheduled, status: "False", message: Insufficient cpu}]}}`
	ours := install.Settings{"identity": "tulle"}
	for what, tc := range map[string]struct {
		settings install.Settings
		objects  []string
		level    Level
		want     string
	}{
		"all are there":    {ours, []string{fmt.Sprintf(deployment, 2)}, OK, "2 of tulle-identity"},
		"one isn't":        {ours, []string{fmt.Sprintf(deployment, 1), pod}, Failed, "1 of 2 of tulle-identity are available: pod i-1 can't be scheduled: Insufficient cpu"},
		"none was made":    {ours, nil, Failed, "not there"},
		"SPIRE":            {install.Settings{"identity": "spire"}, nil, "", ""},
		"off":              {install.Settings{"identity": "off"}, nil, "", ""},
		"an older version": {install.Settings{"identity": "tulle", "identity-root-life": "8760h"}, nil, "", ""},
	} {
		c, _ := newChecker(t, tc.objects...)
		got, err := (&mesh{Checker: c, settings: tc.settings}).signers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if tc.level == "" && len(got) == 0 {
			continue
		}
		if len(got) != 1 || got[0].Level != tc.level || !strings.Contains(got[0].Message, tc.want) || got[0].Level == Failed && got[0].Next == "" {
			t.Errorf("%s: %+v", what, got)
		}
	}
}
