package e2e

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/files"
	"github.com/tulle-mesh/tulle/internal/topology"
	"github.com/tulle-mesh/tulle/internal/why"
)

// TestWhyOfAccessCases: what `tulle why -f` says of the cases' calls, without a cluster.
func TestWhyOfAccessCases(t *testing.T) {
	const world = `
{apiVersion: v1, kind: Namespace, metadata: {name: e2e-access, labels: {tulle.dev/access: enforce}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: e2e-access-elsewhere}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web-1, labels: {app: web}}, spec: {serviceAccountName: web}, status: {podIP: 127.0.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web-v2-1, labels: {app: web-v2}}, spec: {serviceAccountName: web-v2}, status: {podIP: 127.0.0.2}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: e2e-access-elsewhere, name: client-1, labels: {app: client}}, spec: {serviceAccountName: client}, status: {podIP: 127.0.0.3}}
---
{apiVersion: v1, kind: Service, metadata: {namespace: e2e-access-elsewhere, name: open}, spec: {selector: {app: client}, ports: [{name: http, port: 80, targetPort: 8080}]}}
---
`
	config := topology.Config{AccessMinimum: topology.AccessAudit, TrustTargetRefs: true, AllowedEndpoints: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	for _, c := range accessCases(t, "192.0.2.1") {
		for _, order := range c.policies {
			source, err := files.Open(folder(t, world+file(t, "access/services.yaml")+"---\n"+strings.Join(order, "---\n")))
			if err != nil {
				t.Fatal(err)
			}
			mesh, err := why.New(config, source.Snapshot().Resources)
			if err != nil {
				t.Fatal(err)
			}
			for _, call := range c.calls {
				a, err := mesh.Ask(call.question())
				if err != nil {
					t.Fatalf("%s: %s: %v", c.name, call.line, err)
				}
				want, _, _ := strings.Cut(call.as, "?")
				if a.Allow != (call.reason == "") || a.Reason != call.reason || want != "" && a.Destinations[0].Path != want {
					t.Errorf("%s: %s: %+v", c.name, call.line, a)
				}
			}
		}
	}
}

// folder writes objects to a file of a new folder, with the suite's namespace where they have none.
func folder(t *testing.T, text string) string {
	t.Helper()
	var out strings.Builder
	for doc := range strings.SplitSeq(text, "---\n") {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatalf("%v: %s", err, doc)
		}
		if len(o) == 0 {
			continue
		}
		if meta := o["metadata"].(map[string]any); meta["namespace"] == nil && o["kind"] != "Namespace" {
			meta["namespace"] = accessNamespace
		}
		b, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		out.WriteString("---\n" + string(b))
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "all.yaml"), []byte(out.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// question is the call as `tulle why` is asked.
func (c accessCall) question() why.Question {
	namespace, account := c.identity()
	q := why.Question{From: namespace + "/" + account, To: c.service, Port: uint32(c.port), Protocol: c.protocol(), Method: c.kind, Path: c.path}
	switch c.kind {
	case "grpc":
		q.Method = "POST"
	case "tcp", "udp":
		q.Method = ""
	}
	for _, h := range c.headers {
		name, value, _ := strings.Cut(h, ": ")
		q.Headers = append(q.Headers, why.Header{Name: name, Value: value})
	}
	return q
}
