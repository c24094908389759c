package check

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/internal/fakeapi"
	"github.com/tulle-mesh/tulle/internal/install"
	"github.com/tulle-mesh/tulle/internal/status"
	"github.com/tulle-mesh/tulle/internal/version"
)

const room = `
{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: kubernetes}, spec: {cidrs: [10.96.0.0/16]}}
`

const running = `
{apiVersion: v1, kind: Namespace, metadata: {name: tulle-system, labels: {kubernetes.io/metadata.name: tulle-system}}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: tulle-controller, namespace: tulle-system}, spec: {replicas: 2, template: {spec: {containers: [{args: ["--zones=mesh", "--cluster-domain=cluster.local"]}]}}}, status: {availableReplicas: 2}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: tulle-dns, namespace: tulle-system}, spec: {replicas: 1, template: {spec: {containers: [{args: [dns, "--zones=mesh", "--cluster-domain=cluster.local", "--dns-mode=manage"]}]}}}, status: {availableReplicas: 1}}
---
{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: tulle-proxy, namespace: tulle-system}, status: {desiredNumberScheduled: 1, numberReady: 1, updatedNumberScheduled: 1}}
---
{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: tulle-controller, namespace: tulle-system}, spec: {holderIdentity: c-1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: p-1, namespace: tulle-system, labels: {app.kubernetes.io/name: tulle, app.kubernetes.io/component: proxy}}, spec: {nodeName: n1}, status: {phase: Running, podIPs: [{ip: 10.1.0.5}], conditions: [{type: Ready, status: "True"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: c-1, namespace: tulle-system, labels: {app.kubernetes.io/name: tulle, app.kubernetes.io/component: controller}}, spec: {nodeName: n1}, status: {phase: Running, conditions: [{type: Ready, status: "True"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: c-2, namespace: tulle-system, labels: {app.kubernetes.io/name: tulle, app.kubernetes.io/component: controller}}, spec: {nodeName: n1}, status: {phase: Running, conditions: [{type: Ready, status: "True"}]}}
---
{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: trafficsplits.split.smi-spec.io, labels: {app.kubernetes.io/name: tulle}}, spec: {conversion: {strategy: Webhook, webhook: {clientConfig: {service: {namespace: tulle-system}}}}, versions: [{name: v1alpha4, served: true}]}}
---
{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: httproutegroups.specs.smi-spec.io, labels: {app.kubernetes.io/name: tulle}}}
---
{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: tcproutes.specs.smi-spec.io, labels: {app.kubernetes.io/name: tulle}}}
---
{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: udproutes.specs.smi-spec.io, labels: {app.kubernetes.io/name: tulle}}}
---
{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: traffictargets.access.smi-spec.io, labels: {app.kubernetes.io/name: tulle}}}
`

func healthy() status.Status {
	return status.Status{
		Leader: status.Leader{
			Pod: "c-1", Version: version.Version, ConfigVersion: "v7",
			Addresses: status.Addresses{Mode: "dedicated", Services: 3, Assigned: 3, Dedicated: 3, Nodes: 1, Proxies: 1, Ready: 1},
			DNS:       &status.DNS{Mode: "manage", State: "ok", Object: "kube-system/coredns"},
			Identity:  &status.Identity{Mode: "tulle", Roots: 1, CAEnds: time.Now().Add(300 * 24 * time.Hour)},
		},
		Replicas: []status.Replica{
			{Pod: "c-1", Version: version.Version, ConfigVersion: "v7", Proxies: []status.Proxy{{Pod: "p-1", Node: "n1", Current: true}}},
			{Pod: "c-2", Version: version.Version, ConfigVersion: "v7"},
		},
	}
}

func newChecker(t *testing.T, objects ...string) (*Checker, *fakeapi.Server) {
	t.Helper()
	s := fakeapi.New(t)
	for _, text := range objects {
		for _, o := range fakeapi.Parse(text) {
			s.Put(o)
		}
	}
	c, err := install.ConnectTo(&rest.Config{Host: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	c.Ask = inPods("")
	return &Checker{Cluster: c, Namespace: "tulle-system", Patience: time.Millisecond}, s
}

// newMesh adds a mesh DNS that the objects' pods can ask.
func newMesh(t *testing.T, objects ...string) (*Checker, *fakeapi.Server, *meshDNS) {
	t.Helper()
	m := serveDNS(t)
	c, s := newChecker(t, append([]string{m.service()}, objects...)...)
	s.Refuse = refuseGroups
	return c, s, m
}

// refuseGroups is what the API server does if it asks the controllers.
func refuseGroups(verb, resource, _, _ string) *apierrors.StatusError {
	if verb == "create" && resource == "httproutegroups" {
		return apierrors.NewBadRequest(`admission webhook "validate.tulle.dev" denied the request: InvalidRegex: matches[0]`)
	}
	return nil
}

// failing makes creating a resource fail, besides.
func failing(message, resource string) func(*fakeapi.Server) {
	return func(s *fakeapi.Server) {
		s.Refuse = func(verb, r, ns, name string) *apierrors.StatusError {
			if verb == "create" && r == resource {
				return apierrors.NewInternalError(errors.New(message))
			}
			return refuseGroups(verb, r, ns, name)
		}
	}
}

func putStatus(t *testing.T, s *fakeapi.Server, st status.Status) {
	t.Helper()
	data := map[string]any{}
	put := func(key string, v any) {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		data[key] = string(b)
	}
	put(status.LeaderKey, st.Leader)
	for _, r := range st.Replicas {
		put(status.ReplicaKey(r.Pod), r)
	}
	if st.Bypass {
		data[status.BypassKey] = status.BypassOn
	}
	s.Put(fakeapi.Object{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": status.ConfigMap, "namespace": "tulle-system"}, "data": data})
}

func TestAWorkingMeshPasses(t *testing.T) {
	c, s, _ := newMesh(t, running, room)
	c.Cluster.Ask = inPods(`tulle_proxy_requests_total{source_workload="deployment/cart"} 9`)
	putStatus(t, s, healthy())
	settings, err := install.SettingsOf(t.Context(), c.Cluster, "tulle-system")
	if err != nil {
		t.Fatal(err)
	}
	r := c.Installed(t.Context(), settings)
	for _, f := range r.Findings {
		if f.Level != OK {
			t.Errorf("%+v", f)
		}
	}
	if len(r.Findings) < 14 || r.Failed() != 0 {
		t.Errorf("%d findings, %d failed", len(r.Findings), r.Failed())
	}
}

// Each case breaks one thing of a working mesh; exactly the check of that thing fails, says what and what next.
func TestWhatIsBrokenIsSaid(t *testing.T) {
	tests := map[string]struct {
		objects string
		status  func(*status.Status)
		checker func(*Checker)
		api     func(*fakeapi.Server)
		check   string
		level   Level
		want    string
	}{
		"controllers": {
			objects: `{apiVersion: apps/v1, kind: Deployment, metadata: {name: tulle-controller, namespace: tulle-system}, spec: {replicas: 2}, status: {availableReplicas: 1}}`,
			check:   "controllers", level: Failed, want: "1 of 2 controllers are available",
		},
		"no leader": {
			objects: `{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: tulle-controller, namespace: tulle-system}, spec: {}}`,
			check:   "controllers", level: Failed, want: "no controller leads",
		},
		"other version": {
			status: func(s *status.Status) { s.Replicas[1].Version = "v9" },
			check:  "controllers", level: Note, want: "controller c-2 is of version v9",
		},
		"proxies": {
			objects: `{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: tulle-proxy, namespace: tulle-system}, status: {desiredNumberScheduled: 2, numberReady: 1}}`,
			check:   "proxies", level: Failed, want: "1 of 2 proxies are ready",
		},
		"not connected": {
			status: func(s *status.Status) { s.Replicas[0].Proxies = nil },
			check:  "config", level: Failed, want: "not connected to a controller: p-1",
		},
		"behind": {
			status: func(s *status.Status) { s.Replicas[0].Proxies[0].Current = false },
			check:  "config", level: Note, want: "have not confirmed the current config yet: p-1",
		},
		"refused": {
			status: func(s *status.Status) {
				s.Replicas[0].Proxies[0].Refused = []status.Refusal{{Type: "Service", Name: "shop/web", Reason: "port busy"}}
			},
			check: "config", level: Failed, want: "proxy p-1 refuses Service shop/web: port busy",
		},
		"diverged": {
			status: func(s *status.Status) { s.Replicas[1].ConfigVersion = "v8" },
			check:  "config", level: Note, want: "v7, v8",
		},
		"dns": {
			status: func(s *status.Status) { s.Leader.DNS = &status.DNS{State: "fighting", Message: "the add-on manager"} },
			check:  "dns", level: Failed, want: "DNS is fighting: the add-on manager",
		},
		"nobody keeps the dns": {
			objects: `{apiVersion: apps/v1, kind: Deployment, metadata: {name: tulle-dns, namespace: tulle-system}, spec: {replicas: 1}, status: {availableReplicas: 0}}`,
			check:   "dns", level: Failed, want: "0 of 1 pods that keep the cluster's DNS are available",
		},
		"who kept the dns is gone": {
			status: func(s *status.Status) {
				s.Leader.DNS = &status.DNS{State: "pending", Writer: "d-1", Message: "pod d-1, which kept it, is gone"}
			},
			check: "dns", level: Failed, want: "DNS is pending: pod d-1",
		},
		"no identities": {
			status: func(s *status.Status) { s.Leader.Identity = nil },
			check:  "identities", level: Note, want: "identity.mode is off",
		},
		"no CA": {
			status: func(s *status.Status) { s.Leader.Identity.CAEnds = time.Time{} },
			check:  "identities", level: Failed, want: "no CA is there to sign identities with",
		},
		"the CA ends": {
			status: func(s *status.Status) { s.Leader.Identity.CAEnds = time.Now().Add(13 * 24 * time.Hour) },
			check:  "identities", level: Failed, want: "the CA that signs identities ends",
		},
		"the CA has ended": {
			status: func(s *status.Status) { s.Leader.Identity.CAEnds = time.Now().Add(-time.Hour) },
			check:  "identities", level: Failed, want: "has ended",
		},
		"a node without a proxy": {
			status: func(s *status.Status) {
				s.Leader.Identity.NodesWithoutProxy, s.Leader.Identity.WithoutProxy = 1, []string{"n7"}
			},
			check: "identities", level: Note, want: "can be called from their own node only: n7",
		},
		"proxies of the version before": {
			status: func(s *status.Status) { s.Leader.Identity.PlainNodes = 2 },
			check:  "identities", level: Note, want: "calls to 2 nodes are in the clear",
		},
		"no certificates": {
			checker: func(c *Checker) { c.Cluster.Ask = inPodsWith(certificatesOf(3, 1, 0)) },
			check:   "identities", level: Failed, want: "without a valid certificate: p-1 (2 of 3)",
		},
		"old certificates": {
			checker: func(c *Checker) { c.Cluster.Ask = inPodsWith(certificatesOf(3, 3, 2)) },
			check:   "identities", level: Failed, want: "should have been renewed: p-1 (2, the first ends in",
		},
		"kill switch": {status: func(s *status.Status) { s.Bypass = true }, check: "dns", level: Failed, want: "the kill switch is on"},
		"zone's namespace": {
			objects: `{apiVersion: v1, kind: Namespace, metadata: {name: mesh}}`,
			check:   "zones", level: Failed, want: "namespace mesh exists",
		},
		"no address": {
			status: func(s *status.Status) { s.Leader.Addresses.Assigned = 1 },
			check:  "addresses", level: Failed, want: "2 of 3 services have no mesh address",
		},
		"large": {
			status: func(s *status.Status) { s.Leader.Addresses.Dedicated, s.Leader.Addresses.Nodes = 1000, 30 },
			check:  "addresses", level: Note, want: "1000 dedicated addresses on 30 nodes",
		},
		"too large": {
			status: func(s *status.Status) { s.Leader.Addresses.Dedicated, s.Leader.Addresses.Nodes = 1000, 80 },
			check:  "addresses", level: Failed, want: "addresses.http=shared",
		},
		"few ClusterIPs": {
			objects: `{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: kubernetes}, spec: {cidrs: [10.96.0.0/27]}}`,
			check:   "addresses", level: Failed, want: "31 of 32 IPv4 ClusterIPs are free",
		},
		"first hop": {
			checker: func(c *Checker) {
				c.Cluster.Ask = inPods(`tulle_proxy_requests_total{source_workload="unknown"} 8` + "\n" + `tulle_proxy_requests_total{source_workload="deployment/cart"} 2`)
			},
			check: "first-hop", level: Note, want: "8 of 10 calls so far came from none of the own node's pods",
		},
		"foreign CRD": {
			objects: `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: trafficsplits.split.smi-spec.io}, spec: {versions: [{name: v1alpha2, served: true}]}}`,
			check:   "crds", level: Note, want: "trafficsplits.split.smi-spec.io is somebody else's and serves v1alpha2",
		},
		"bypassable": {
			status: func(s *status.Status) {
				s.Leader.Direct = []status.Direct{{Workload: "shop/api", Mode: "close", State: "Enforced"}, {Workload: "shop/web", Mode: "report", State: "Bypassable", Why: []string{"no NetworkPolicy closes TCP port 80"}}}
			},
			check: "bypass", level: Note, want: "shop/web can be called past the mesh: no NetworkPolicy closes TCP port 80",
		},
		"not closed": {
			status: func(s *status.Status) {
				s.Leader.Direct = []status.Direct{{Workload: "shop/web", Mode: "close", State: "Bypassable", Why: []string{"NetworkPolicies are not enforced on n1"}}}
			},
			check: "bypass", level: Failed, want: "NetworkPolicies are not enforced on n1",
		},
		"conversion not set up": {
			objects: `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: trafficsplits.split.smi-spec.io, labels: {app.kubernetes.io/name: tulle}}, spec: {conversion: {strategy: None}}}`,
			check:   "webhooks", level: Failed, want: "not told to have SMI objects converted",
		},
		"conversion by another mesh": {
			objects: `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: trafficsplits.split.smi-spec.io, labels: {app.kubernetes.io/name: tulle}}, spec: {conversion: {strategy: Webhook, webhook: {clientConfig: {service: {namespace: other}}}}}}`,
			check:   "webhooks", level: Note, want: "converted by the mesh in namespace other",
		},
		"caBundle": {
			api:   failing(`conversion webhook for split.smi-spec.io/v1alpha1, Kind=TrafficSplit failed: Post "https://tulle-webhook.tulle-system.svc:443/convert?timeout=30s": tls: failed to verify certificate: x509: certificate signed by unknown authority`, "trafficsplits"),
			check: "webhooks", level: Failed, want: "the API server trusts another CA",
		},
		"webhook out of reach": {
			api:   failing(`conversion webhook for split.smi-spec.io/v1alpha1, Kind=TrafficSplit failed: Post "https://tulle-webhook.tulle-system.svc:443/convert?timeout=30s": dial tcp 10.96.0.1:443: i/o timeout`, "trafficsplits"),
			check: "webhooks", level: Failed, want: "has to reach port 15017",
		},
		"not judged": {
			api:   func(s *fakeapi.Server) { s.Refuse = nil },
			check: "webhooks", level: Failed, want: "does not have SMI objects judged",
		},
		"problem": {
			status: func(s *status.Status) {
				s.Leader.ProblemCount = 2
				s.Leader.Problems = []status.Problem{{Kind: "TrafficTarget", Namespace: "shop", Name: "tt", Reason: "NotEnforced", Message: "m"}}
			},
			check: "problems", level: Failed, want: "TrafficTarget shop/tt: NotEnforced: m",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c, s, _ := newMesh(t, running, room, tt.objects)
			st := healthy()
			if tt.status != nil {
				tt.status(&st)
			}
			if tt.checker != nil {
				tt.checker(c)
			}
			if tt.api != nil {
				tt.api(s)
			}
			putStatus(t, s, st)
			r := c.Installed(t.Context(), install.Settings{"zones": "mesh", "cluster-domain": "cluster.local", "dns-mode": "manage"})
			said := false
			for _, f := range r.Findings {
				if f.Level == OK {
					continue
				}
				if f.Check != tt.check {
					t.Errorf("besides: %+v", f)
				}
				said = said || f.Level == tt.level && strings.Contains(f.Message+f.Next, tt.want)
				if f.Level == Failed && f.Next == "" {
					t.Errorf("it doesn't say what to do: %+v", f)
				}
			}
			if !said {
				t.Errorf("no finding %s %q in %+v", tt.level, tt.want, r.Findings)
			}
		})
	}
}

func TestPre(t *testing.T) {
	rendered, err := install.Render(install.Release{})
	if err != nil {
		t.Fatal(err)
	}
	settings, err := rendered.Settings()
	if err != nil {
		t.Fatal(err)
	}
	c, s := newChecker(t, room, fakeapi.CoreDNS)
	if r := c.Pre(t.Context(), rendered, settings); r.Failed() != 0 {
		t.Errorf("%+v", r)
	}
	if w := s.Writes(); len(w) > 0 {
		t.Errorf("it wrote %v", w)
	}

	c, s = newChecker(t, room, fakeapi.CoreDNS, `{apiVersion: v1, kind: Namespace, metadata: {name: mesh}}`)
	s.Version = "v1.28.0"
	s.Refuse = func(verb, resource, _, _ string) *apierrors.StatusError {
		if resource == "servicecidrs" || verb == "create" && resource == "clusterroles" {
			return apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "", fmt.Errorf("no"))
		}
		return nil
	}
	r := c.Pre(t.Context(), rendered, settings)
	for _, want := range []string{"too old", "mesh.svc", "you may not: create clusterroles"} {
		if !strings.Contains(fmt.Sprint(r), want) {
			t.Errorf("no %q in %+v", want, r)
		}
	}
	if r.Failed() != 3 {
		t.Errorf("%d failed: %+v", r.Failed(), r)
	}
}

// The rules of NetworkPolicies, as far as they concern the proxies.
func TestNetworkPolicies(t *testing.T) {
	const fromMesh = `{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: tulle-system}}}]}`
	tests := map[string]struct {
		spec            string
		ingress, egress bool
	}{
		"none for this pod":      {`{podSelector: {matchLabels: {app: other}}, policyTypes: [Ingress], ingress: []}`, true, true},
		"deny in":                {`{podSelector: {}, policyTypes: [Ingress]}`, false, true},
		"deny all":               {`{podSelector: {}, policyTypes: [Ingress, Egress]}`, false, false},
		"from everybody":         {`{podSelector: {}, policyTypes: [Ingress], ingress: [{}]}`, true, true},
		"from the mesh":          {`{podSelector: {}, policyTypes: [Ingress], ingress: [` + fromMesh + `]}`, true, true},
		"from the own namespace": {`{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {}}]}]}`, false, true},
		"from proxies":           {`{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app.kubernetes.io/component: proxy}}}]}]}`, true, true},
		"from other pods":        {`{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: x}}}]}]}`, false, true},
		"from the pods' range":   {`{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}`, true, true},
		"but the proxies":        {`{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}]}`, false, true},
		"from elsewhere":         {`{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 192.168.0.0/16}}]}]}`, false, true},
		"to DNS only":            {`{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}]}]}`, true, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var policy networkingv1.NetworkPolicy
			decode(t, `{metadata: {name: p, namespace: shop}, spec: `+tt.spec+`}`, &policy)
			var mesh corev1.Namespace
			decode(t, `{metadata: {name: tulle-system, labels: {kubernetes.io/metadata.name: tulle-system}}}`, &mesh)
			var proxy, pod corev1.Pod
			decode(t, `{metadata: {name: p-1, namespace: tulle-system, labels: {app.kubernetes.io/name: tulle, app.kubernetes.io/component: proxy}}, status: {podIPs: [{ip: 10.1.0.5}, {ip: "fd00::5"}]}}`, &proxy)
			decode(t, `{metadata: {name: web, namespace: shop, labels: {app: web}}}`, &pod)
			j := newJudge("tulle-system", []networkingv1.NetworkPolicy{policy}, []corev1.Pod{proxy, pod}, []corev1.Namespace{mesh})
			ingress, egress := j.admits(&pod)
			if ingress != tt.ingress || egress != tt.egress {
				t.Errorf("ingress %v, egress %v; want %v, %v", ingress, egress, tt.ingress, tt.egress)
			}
		})
	}
}

func TestCallers(t *testing.T) {
	families, err := parseMetrics([]byte(`# TYPE tulle_proxy_requests_total counter
tulle_proxy_requests_total{source_workload="unknown"} 1
tulle_proxy_requests_total{source_workload="deployment/a",code="2xx"} 2
# TYPE tulle_proxy_tcp_connections_total counter
tulle_proxy_tcp_connections_total{source_workload="deployment/a"} 3
# TYPE tulle_proxy_udp_flows_total counter
tulle_proxy_udp_flows_total{source_workload="unknown"} 4
`))
	known, strangers := callers(families)
	if diff := cmp.Diff([]any{5.0, 5.0, error(nil)}, []any{known, strangers, err}); diff != "" {
		t.Error(diff)
	}
}

func decode(t *testing.T, text string, into any) {
	t.Helper()
	data, err := json.Marshal(fakeapi.Parse(text)[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}
