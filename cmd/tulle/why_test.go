package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tulle-mesh/tulle/internal/fakeapi"
)

const twoTenants = `
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}, addressType: IPv4, endpoints: [{addresses: [10.1.0.1]}], ports: [{name: http, port: 8080, protocol: TCP}]}
---
{apiVersion: v1, kind: Pod, metadata: {name: web-1, namespace: shop}, spec: {serviceAccountName: web}, status: {phase: Running, podIP: 10.1.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: client-1, namespace: secret}, spec: {serviceAccountName: hidden-account}, status: {phase: Running, podIP: 10.1.0.2}}
---
{apiVersion: access.smi-spec.io/v1alpha3, kind: TrafficTarget, metadata: {name: ours, namespace: shop}, spec: {destination: {kind: ServiceAccount, name: web}, rules: [{kind: TCPRoute, name: r}], sources: [{kind: ServiceAccount, name: c}]}}
`

// Somebody who may read one namespace pastes a line of a proxy's log: the answer comes from that namespace, has nothing of
// others, and says what it lacks.
func TestWhyWithTheRightsOfWhoAsks(t *testing.T) {
	api := fakeapi.New(t)
	for _, o := range fakeapi.Parse(twoTenants) {
		api.Put(o)
	}
	api.Refuse = func(_, resource, namespace, _ string) *apierrors.StatusError {
		if namespace == "shop" {
			return nil
		}
		return apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "", fmt.Errorf("not you"))
	}
	config := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(config, []byte(`{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: a, user: a}}], users: [{name: a, user: {}}], clusters: [{name: a, cluster: {server: "`+api.URL+`"}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, output := range []string{"text", "json"} {
		var out, errs strings.Builder
		root := newRoot(strings.NewReader(""), &out, &errs)
		root.SetArgs([]string{"why", "--kubeconfig", config, "-o", output, `[pod/p] reason=source-denied protocol=http from=secret/client-1 to=web.shop port=80 method=GET path=/`})
		if err := root.ExecuteContext(t.Context()); err != errDenied { //nolint:errorlint // it is not wrapped
			t.Fatal(err, errs.String())
		}
		want := []string{"denied (source-denied), as far as you may read: secret/client-1 calls shop/web port 80 by http, GET /", "TrafficTarget shop/ours does not (source-denied)", "note: you may not read pods in secret"}
		if output == "json" {
			want = []string{`"hidden": [`, `"pods in secret"`, `"reason": "source-denied"`}
		}
		for _, w := range want {
			if !strings.Contains(out.String(), w) {
				t.Errorf("%s is missing in\n%s", w, out.String())
			}
		}
		if strings.Contains(out.String(), "hidden-account") {
			t.Errorf("it shows what may not be read:\n%s", out.String())
		}
	}
}
