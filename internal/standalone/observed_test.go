package standalone

import (
	"testing"

	"github.com/tulle-mesh/tulle/internal/observed"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// The way from audit to enforce: what was called, over every protocol, is allowed by what is proposed for it, and what
// differs in source, port, method or path is not.
func TestFromAuditToEnforce(t *testing.T) {
	r := protected(t, routes, topology.AccessAudit)
	seen := []struct{ from, call string }{
		{client, "GET 8080 /api/17?q=1"}, {client, "TCP 8082"}, {second, "UDP 8082"}, {other, "POST 8081 /w"}, {other, "GET 8081 /w/"},
	}
	for _, c := range append(seen, struct{ from, call string }{stranger, "GET 8080 /"}) {
		if got := r.call(t, c.from, c.call); got != "ok" {
			t.Errorf("in audit mode: %s from %s: %s", c.call, c.from, got)
		}
	}
	r.write(t, "policy.yaml", string(observed.Generate(observed.Merge([]observed.Report{r.Observed()}))))
	r.write(t, "namespace.yaml", "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {tulle.dev/access: enforce}}}")
	r.awaitCall(t, client, "GET 8080 /", "route-denied")
	r.awaitNoProblems(t)
	for _, c := range seen {
		if got := r.call(t, c.from, c.call); got != "ok" {
			t.Errorf("%s from %s was seen, and is not allowed: %s", c.call, c.from, got)
		}
	}
	for _, tc := range []struct{ from, call, want string }{
		{client, "GET 8080 /api/18", "ok"},
		{client, "GET 8080 /api/18/x", "route-denied"},
		{client, "POST 8080 /api/17", "route-denied"},
		{client, "GET 8081 /api/17", "port-denied"},
		{client, "UDP 8082", "closed"},
		{second, "TCP 8082", "closed"},
		{second, "GET 8080 /api/17", "port-denied"},
		{other, "GET 8081 /w", "route-denied"},
		{other, "POST 8081 /W", "route-denied"},
	} {
		if got := r.call(t, tc.from, tc.call); got != tc.want {
			t.Errorf("%s from %s: %s, want %s", tc.call, tc.from, got, tc.want)
		}
	}
}
