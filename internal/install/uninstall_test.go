package install

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/internal/fakeapi"
)

// others are what a cluster holds besides the mesh, some of it easy to mistake.
const others = `
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: tulle-controller.other, labels: {app.kubernetes.io/name: tulle}, annotations: {meta.helm.sh/release-namespace: other}}}
---
{apiVersion: v1, kind: Event, metadata: {name: e1, namespace: shop}, source: {component: kubelet}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop, labels: {app.kubernetes.io/name: tulle}}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: others, namespace: shop, labels: {app.kubernetes.io/managed-by: tulle-controller, tulle.dev/mesh: other-mesh}}}
`

// controllersMade is what the controllers leave in the cluster.
const controllersMade = `
{apiVersion: v1, kind: Service, metadata: {name: tulle-abc, namespace: tulle-system, labels: {app.kubernetes.io/managed-by: tulle-controller}}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: tulle-abc-1, namespace: tulle-system, labels: {endpointslice.kubernetes.io/managed-by: tulle-controller}}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: tulle-web-1, namespace: shop, labels: {app.kubernetes.io/managed-by: tulle-controller, tulle.dev/mesh: tulle-system}}}
---
{apiVersion: v1, kind: Secret, metadata: {name: tulle-controller-tls, namespace: tulle-system}}
---
{apiVersion: v1, kind: Secret, metadata: {name: tulle-traefik-tls, namespace: tulle-system}}
---
{apiVersion: v1, kind: Secret, metadata: {name: tulle-identity-ca, namespace: tulle-system}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: tulle-trust, namespace: tulle-system}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: tulle-dns, namespace: tulle-system}}
---
{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: tulle-controller, namespace: tulle-system}}
---
{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: tulle-dns, namespace: tulle-system}}
---
{apiVersion: v1, kind: Event, metadata: {name: e2, namespace: shop}, source: {component: tulle-controller}}
`

func installed(t *testing.T, before string) (*Installer, *fakeapi.Server, *strings.Builder) {
	t.Helper()
	i, s, _ := newInstaller(t)
	var out strings.Builder
	i.Out = &out
	works := s.OnWrite
	s.OnWrite = func(resource string, o fakeapi.Object) {
		works(resource, o)
		if spec, _ := o["spec"].(map[string]any); resource == "deployments" && fmt.Sprint(spec["replicas"]) == "0" {
			s.Remove("pods", "tulle-system", map[string]string{"tulle-controller": "c-1", "tulle-dns": "d-1"}[fmt.Sprint(o["metadata"].(map[string]any)["name"])])
		}
	}
	for _, o := range fakeapi.Parse(before) {
		s.Put(o)
	}
	if err := i.Install(t.Context(), Options{Values: parse(t, "criticalPodsQuota: true")}); err != nil {
		t.Fatal(err)
	}
	for _, o := range fakeapi.Parse(controllersMade) {
		s.Put(o)
	}
	s.Put(fakeapi.Parse(`{apiVersion: v1, kind: Pod, metadata: {name: p-1, namespace: tulle-system, labels: {app.kubernetes.io/name: tulle, app.kubernetes.io/component: proxy}}, status: {phase: Running}}`)[0])
	return i, s, &out
}

// endProxies stands for the controllers of workloads: no DaemonSet, no proxies, and no Deployment, no tulle-identity.
func endProxies(i *Installer, s *fakeapi.Server) {
	i.Poll = time.Millisecond
	go func() {
		for range 5000 {
			if s.Get("daemonsets", "tulle-system", "tulle-proxy") == nil && s.Get("deployments", "tulle-system", "tulle-identity") == nil {
				s.Remove("pods", "tulle-system", "p-1")
				s.Remove("pods", "tulle-system", "i-1")
				return
			}
			<-time.After(time.Millisecond)
		}
	}()
}

func TestUninstallLeavesNothing(t *testing.T) {
	for _, crds := range []bool{false, true} {
		t.Run(fmt.Sprintf("crds %v", crds), func(t *testing.T) {
			i, s, out := installed(t, others)
			endProxies(i, s)
			order := []string{}
			err := i.Uninstall(t.Context(), UninstallOptions{Force: true, CRDs: crds, RestoreDNS: func(context.Context) error {
				if s.Get("daemonsets", "tulle-system", "tulle-proxy") == nil {
					t.Error("the proxies went before the cluster's DNS was restored")
				}
				if s.Get("pods", "tulle-system", "c-1") != nil || s.Get("pods", "tulle-system", "d-1") != nil {
					t.Error("the controllers, or what would put the block back, still run")
				}
				order = append(order, "dns")
				return nil
			}})
			if err != nil {
				t.Fatal(err)
			}
			want := []string{
				"clusterroles tulle-controller.other", "configmaps kube-system/coredns", "deployments kube-system/coredns", "events shop/e1",
				"namespaces shop", "networkpolicies shop/others", "nodes n1", "services kube-system/kube-dns", "services shop/web",
			}
			if !crds {
				want = append(want,
					"customresourcedefinitions httproutegroups.specs.smi-spec.io", "customresourcedefinitions tcproutes.specs.smi-spec.io",
					"customresourcedefinitions trafficsplits.split.smi-spec.io", "customresourcedefinitions traffictargets.access.smi-spec.io",
					"customresourcedefinitions udproutes.specs.smi-spec.io")
				slices.Sort(want)
			}
			if diff := cmp.Diff(want, s.Names()); diff != "" {
				t.Errorf("left (-want +got):\n%s\n%s", diff, out)
			}
			if len(order) != 1 {
				t.Errorf("DNS restored %d times", len(order))
			}
		})
	}
}

func TestUninstallKeepsANamespaceOfOthers(t *testing.T) {
	i, s, _ := installed(t, `{apiVersion: v1, kind: Namespace, metadata: {name: tulle-system}}`)
	endProxies(i, s)
	if err := i.Uninstall(t.Context(), UninstallOptions{Force: true, RestoreDNS: func(context.Context) error { return nil }}); err != nil {
		t.Fatal(err)
	}
	if s.Get("namespaces", "", "tulle-system") == nil {
		t.Error("the namespace is gone")
	}
}

func TestUninstallStopsIfDNSCannotBeRestored(t *testing.T) {
	i, s, _ := installed(t, others)
	err := i.Uninstall(t.Context(), UninstallOptions{Force: true, RestoreDNS: func(context.Context) error { return errors.New("the block has been edited") }})
	if err == nil || !strings.Contains(err.Error(), "edited") || !strings.Contains(err.Error(), "next: ") {
		t.Fatalf("error %v", err)
	}
	if s.Get("daemonsets", "tulle-system", "tulle-proxy") == nil {
		t.Error("the proxies are gone, and clients' names lead to them")
	}
}

func TestUninstallRefusesWhileClientsCall(t *testing.T) {
	const quiet = `tulle_proxy_requests_total{source_namespace="shop",source_workload="deployment/cart",code="2xx"} 5
tulle_dns_responses_total{type="A",rcode="NOERROR"} 7
tulle_dns_responses_total{type="other",rcode="NOERROR"} %d
`
	tests := map[string]struct {
		second string
		want   string // in the error; none = it is removed
	}{
		"nobody":      {fmt.Sprintf(quiet, 9), ""},
		"a request":   {strings.Replace(quiet, "} 5", "} 8", 1), "shop/deployment/cart called 3 times"},
		"a lookup":    {strings.Replace(quiet, "} 7", "} 9", 1), "mesh names were looked up 2 times"},
		"a long call": {quiet + `tulle_proxy_tcp_connections{source_namespace="shop",source_workload="deployment/db"} 1` + "\n", "shop/deployment/db has 1 open connections"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			i, s, out := installed(t, others)
			endProxies(i, s)
			reads := 0
			i.Cluster.Ask = func(_ context.Context, _, pod string, port int, path string) ([]byte, error) {
				if pod != "p-1" || port != 15020 || path != "/metrics" {
					t.Errorf("asked %s :%d%s", pod, port, path)
				}
				if reads++; reads == 1 {
					return fmt.Appendf(nil, quiet, 1), nil
				}
				return []byte(strings.ReplaceAll(tt.second, "%d", "9")), nil
			}
			err := i.Uninstall(t.Context(), UninstallOptions{Window: time.Millisecond, RestoreDNS: func(context.Context) error { return nil }})
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("refused: %v\n%s", err, out)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "--force")):
				t.Errorf("error %v, want %q", err, tt.want)
			case tt.want != "" && s.Get("daemonsets", "tulle-system", "tulle-proxy") == nil:
				t.Error("removed all the same")
			}
		})
	}
}

func TestUninstallOfNothing(t *testing.T) {
	i, s, out := newInstaller(t)
	if err := i.Uninstall(t.Context(), UninstallOptions{RestoreDNS: func(context.Context) error { return errors.New("asked") }}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "nothing to remove") || len(s.Writes()) > 0 {
		t.Errorf("said %q, wrote %v", out, s.Writes())
	}
}
