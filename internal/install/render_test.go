package install

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
	"k8s.io/kube-openapi/pkg/validation/validate"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/smi"
)

// everything turns on what is off by default and sets what is empty by default.
const everything = `
zones: [mesh, traefik.mesh]
watchNamespaces: [shop, web]
endpoints: {allow: [10.9.0.0/24], foreignPods: true, podCIDRs: [10.1.0.0/16], serviceCIDRs: [10.96.0.0/16]}
image: {pullSecrets: [registry]}
controller:
  image: {digest: "sha256:` + digest + `"}
  podLabels: {team: mesh}
  podAnnotations: {note: controller}
  tolerations: [{key: arm, operator: Exists}]
  extraArgs: [--log-level=debug]
proxy: {accessLog: true, podLabels: {team: mesh}, podAnnotations: {note: proxy}, image: {tag: v9}}
criticalPodsQuota: true
trustDomain: shop.example
identity: {ca: {secret: corp-ca}}
bypass: {default: close, allowFrom: [ingress-nginx, "monitoring/app=prometheus+tier=x", 10.9.0.0/24]}
dns: {restart: true, openshift: true, configMaps: [{namespace: kube-system, name: coredns, key: Corefile}, {namespace: kube-system, name: coredns-custom}, {namespace: dns, name: node}]}
webhook: {allowFrom: [10.0.0.0/24]}
podMonitor: {enabled: true, labels: {release: prometheus}}
prometheusRule: {enabled: true, labels: {release: prometheus}}
`

// stockTraefik is everything with the other engine.
const stockTraefik = everything + `
addresses: {http: shared}
`

func withTraefik(values string) string {
	return strings.Replace(values, "proxy: {", "proxy: {engine: traefik, traefik: {entryPoints: {first: 30000, last: 30001}, dashboard: true, extraArgs: [--tracing]}, ", 1)
}

const digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestTwoRendersAreIdentical(t *testing.T) {
	for _, values := range []string{"{}", everything, withTraefik(stockTraefik)} {
		var first bytes.Buffer
		for i := range 5 {
			var out bytes.Buffer
			r := render(t, values)
			if err := Encode(&out, append(r.CRDs, r.Objects...)...); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				first = out
			} else if diff := cmp.Diff(first.String(), out.String()); diff != "" {
				t.Fatalf("render %d differs (-first +this):\n%s", i, diff)
			}
		}
	}
}

// Every object is decoded with the types of Kubernetes; a field they don't know is an error.
func TestObjectsAreStrictlyValid(t *testing.T) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, apiextensionsv1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	for _, values := range []string{"{}", everything, withTraefik(stockTraefik)} {
		r := render(t, values)
		for _, o := range append(r.CRDs, r.Objects...) {
			if o.GroupVersionKind().Group == "monitoring.coreos.com" {
				continue // no types of it here
			}
			data, err := json.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := decoder.Decode(data, nil, nil); err != nil {
				t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
			}
		}
	}
}

// The proxies' label namespace is that of the called service; the alerts and docs/flagger.md ask for it.
func TestPodMonitorsKeepLabels(t *testing.T) {
	n := 0
	for _, o := range render(t, everything).Objects {
		if o.GetKind() != "PodMonitor" {
			continue
		}
		n++
		endpoints, _, err := unstructured.NestedSlice(o.Object, "spec", "podMetricsEndpoints")
		if err != nil || len(endpoints) != 1 || endpoints[0].(map[string]any)["honorLabels"] != true {
			t.Errorf("%s: %v, %v: want one endpoint whose labels are kept", o.GetName(), endpoints, err)
		}
	}
	if n != 4 {
		t.Errorf("%d PodMonitors, want 4", n)
	}
}

func TestEveryObjectCanBeAdoptedByHelm(t *testing.T) {
	seen := map[string]bool{}
	for _, o := range render(t, everything).Objects {
		id := fmt.Sprintf("%s %s/%s", o.GetKind(), o.GetNamespace(), o.GetName())
		if seen[id] {
			t.Errorf("%s is rendered twice", id)
		}
		seen[id] = true
		if got := o.GetLabels()["app.kubernetes.io/managed-by"]; got != "Helm" {
			t.Errorf("%s: managed-by is %q", id, got)
		}
		if got := o.GetLabels()["app.kubernetes.io/name"]; got != "tulle" {
			t.Errorf("%s: name label is %q", id, got)
		}
		a := o.GetAnnotations()
		if a[releaseNameAnnotation] != "tulle" || a[releaseNamespaceAnnotation] != "tulle-system" {
			t.Errorf("%s: annotations %v", id, a)
		}
	}
}

// PodSecurity "restricted", by its rules of Kubernetes 1.34.
func TestPodsAreRestricted(t *testing.T) {
	for engine, values := range map[string]string{"tulle": "{}", "traefik": "{proxy: {engine: traefik}}"} {
		t.Run(engine, func(t *testing.T) { checkRestricted(t, render(t, values)) })
	}
}

func checkRestricted(t *testing.T, r Rendered) {
	t.Helper()
	var proxy appsv1.DaemonSet
	typed(t, find(t, r, "DaemonSet", "tulle-proxy"), &proxy)
	specs := map[string]corev1.PodSpec{"proxy": proxy.Spec.Template.Spec}
	for _, o := range r.Objects {
		if o.GetKind() == "Deployment" {
			var d appsv1.Deployment
			typed(t, o, &d)
			specs[d.Name] = d.Spec.Template.Spec
		}
	}
	for name, spec := range specs {
		if spec.HostNetwork || spec.HostPID || spec.HostIPC {
			t.Errorf("%s shares a namespace of the host", name)
		}
		p := spec.SecurityContext
		if p.RunAsNonRoot == nil || !*p.RunAsNonRoot || p.RunAsUser == nil || *p.RunAsUser == 0 || p.SeccompProfile == nil || p.SeccompProfile.Type != "RuntimeDefault" {
			t.Errorf("%s: pod security context %+v", name, p)
		}
		for _, c := range spec.Containers {
			s := c.SecurityContext
			if *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || len(s.Capabilities.Add) > 0 || !slices.Contains(s.Capabilities.Drop, "ALL") {
				t.Errorf("%s: security context %+v", name, s)
			}
			if len(c.Resources.Requests) != 2 {
				t.Errorf("%s: requests %v", name, c.Resources.Requests)
			}
			for _, port := range c.Ports {
				if port.HostPort != 0 {
					t.Errorf("%s: host port %d", name, port.HostPort)
				}
			}
		}
		for _, v := range spec.Volumes {
			if v.ConfigMap == nil && v.EmptyDir == nil && v.Projected == nil && v.Secret == nil {
				t.Errorf("%s: volume %s is of a kind that is not allowed", name, v.Name)
			}
		}
	}
	if s := proxy.Spec.UpdateStrategy.RollingUpdate; s.MaxSurge.IntValue() != 1 || s.MaxUnavailable.IntValue() != 0 {
		t.Errorf("the proxies' rolling update is %+v: a node would be without", s)
	}
	if a := proxy.Spec.Template.Spec.AutomountServiceAccountToken; a == nil || *a {
		t.Error("the proxy gets a token for the API server")
	}
}

// What the controllers may do, line by line: a new right is a decision.
func TestRightsAreMinimal(t *testing.T) {
	for _, o := range render(t, everything).Objects {
		if o.GetKind() != "Role" && o.GetKind() != "ClusterRole" || strings.HasPrefix(o.GetName(), "tulle-smi-") {
			continue
		}
		var role rbacv1.Role
		typed(t, o, &role)
		for _, rule := range role.Rules {
			if slices.Contains(rule.Resources, "*") || slices.Contains(rule.Verbs, "*") || slices.Contains(rule.APIGroups, "*") {
				t.Errorf("%s %s: wildcard in %+v", o.GetKind(), o.GetName(), rule)
			}
			named := len(rule.ResourceNames) > 0
			onlyCreate := slices.Equal(rule.Verbs, []string{"create"})
			for _, r := range rule.Resources {
				if (r == "secrets" || r == "configmaps" || r == "leases") && !named && !onlyCreate {
					t.Errorf("%s %s: %s without names in %+v", o.GetKind(), o.GetName(), r, rule)
				}
			}
			// What closes the way around the mesh is written where the workloads are.
			if slices.Equal(rule.Resources, []string{"networkpolicies"}) && slices.Equal(rule.Verbs, []string{"create", "update", "delete"}) {
				continue
			}
			if o.GetKind() == "ClusterRole" && !slices.Contains(rule.Resources, "events") && !slices.Contains(rule.Resources, "tokenreviews") && !named &&
				slices.ContainsFunc(rule.Verbs, func(v string) bool { return !slices.Contains([]string{"get", "list", "watch"}, v) }) {
				t.Errorf("ClusterRole %s writes: %+v", o.GetName(), rule)
			}
		}
	}
}

// Who closes nothing need not let the controllers write NetworkPolicies.
func TestRightToWritePolicies(t *testing.T) {
	for values, want := range map[string]bool{
		"{}":                           true,
		"bypass: {byNamespace: false}": false,
		"bypass: {byNamespace: false, default: close}": true,
	} {
		var role rbacv1.ClusterRole
		typed(t, find(t, render(t, values), "ClusterRole", "tulle-controller.tulle-system"), &role)
		got := slices.ContainsFunc(role.Rules, func(r rbacv1.PolicyRule) bool {
			return slices.Contains(r.Resources, "networkpolicies") && slices.Contains(r.Verbs, "create")
		})
		if got != want {
			t.Errorf("%s: may write NetworkPolicies is %v, want %v", values, got, want)
		}
	}
}

func TestValuesReachTheObjects(t *testing.T) {
	r := render(t, everything)
	for _, c := range []struct{ kind, name, want string }{
		{"Deployment", "tulle-controller", "docker.io/tullemesh/tulle-controller@sha256:" + digest},
		{"Deployment", "tulle-controller", "--zones=mesh,traefik.mesh"},
		{"Deployment", "tulle-controller", "--log-level=debug"},
		{"Deployment", "tulle-controller", "--bypass=close"},
		{"Deployment", "tulle-controller", "--bypass-allow-from=ingress-nginx,monitoring/app=prometheus+tier=x,10.9.0.0/24"},
		{"Deployment", "tulle-controller", "imagePullSecrets"},
		{"Deployment", "tulle-dns", "--dns-config-maps=kube-system/coredns:Corefile,kube-system/coredns-custom,dns/node"},
		{"Deployment", "tulle-dns", `"args":["dns","--zones=mesh,traefik.mesh"`},
		{"Deployment", "tulle-dns", "docker.io/tullemesh/tulle-controller@sha256:" + digest},
		{"Deployment", "tulle-dns", `"serviceAccountName":"tulle-dns"`},
		{"Role", "tulle-dns.tulle-system", `"resourceNames":["node"]`},
		{"NetworkPolicy", "tulle-controller", `"from":[{"ipBlock":{"cidr":"10.0.0.0/24"}}],"ports":[{"port":15017`},
		{"ValidatingWebhookConfiguration", "tulle-webhook.tulle-system", `"failurePolicy":"Ignore"`},
		{"ValidatingWebhookConfiguration", "tulle-webhook.tulle-system", `"timeoutSeconds":2`},
		{"DaemonSet", "tulle-proxy", "docker.io/tullemesh/tulle-proxy:v9"},
		{"Deployment", "tulle-identity", "docker.io/tullemesh/tulle-controller@sha256:" + digest},
		{"Deployment", "tulle-identity", `"args":["identity","--trust-domain=shop.example",`},
		{"Deployment", "tulle-identity", "--identity-secret=corp-ca"},
		{"NetworkPolicy", "tulle-identity", `"ports":[{"port":15012,"protocol":"TCP"}]`},
		{"DaemonSet", "tulle-proxy", "--access-log"},
		{"DaemonSet", "tulle-proxy", "--max-buffered-mib=256"},
		{"Service", "tulle-dns", "PreferSameNode"},
		{"Service", "tulle-first-hop", `"trafficDistribution":"PreferSameNode"`},
		{"ValidatingAdmissionPolicy", "tulle-zones.tulle-system", `!(object.metadata.name in [\"mesh\"])`},
	} {
		data, err := json.Marshal(find(t, r, c.kind, c.name))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(data), c.want) {
			t.Errorf("%s %s doesn't contain %s:\n%s", c.kind, c.name, c.want, data)
		}
	}
	old, err := Render(Release{KubeVersion: "1.31.2", Values: parse(t, "{}")})
	if err != nil {
		t.Fatal(err)
	}
	if v, has, _ := unstructured.NestedString(find(t, old, "Service", "tulle-dns").Object, "spec", "trafficDistribution"); has {
		t.Errorf("Kubernetes 1.31 is asked for trafficDistribution %s, which it doesn't know", v)
	}
	if v, _, _ := unstructured.NestedString(find(t, old, "Service", "tulle-first-hop").Object, "spec", "internalTrafficPolicy"); v != "Local" {
		t.Errorf("the Service that the first hop is judged by has internalTrafficPolicy %q, and mesh addresses have Local", v)
	}
}

// TestTraefikStaticConfiguration: entry points for every port of the range, and the endpoint of the controllers.
func TestTraefikStaticConfiguration(t *testing.T) {
	r := render(t, withTraefik(stockTraefik))
	text, _, err := unstructured.NestedString(find(t, r, "ConfigMap", "tulle-traefik").Object, "data", "traefik.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var static struct {
		EntryPoints map[string]struct{ Address string }
		Providers   struct{ HTTP struct{ Endpoint string } }
	}
	if err := yaml.Unmarshal([]byte(text), &static); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	want := map[string]struct{ Address string }{
		"traefik": {":15090"}, "tcp-30000": {":30000"}, "udp-30000": {":30000/udp"}, "tcp-30001": {":30001"}, "udp-30001": {":30001/udp"},
	}
	if diff := cmp.Diff(want, static.EntryPoints); diff != "" {
		t.Errorf("entry points (-want +got):\n%s", diff)
	}
	if got := static.Providers.HTTP.Endpoint; got != "https://tulle-controller.tulle-system.svc:15011/traefik" {
		t.Errorf("the endpoint is %s", got)
	}
	for _, c := range []struct{ kind, name, want string }{
		{"Deployment", "tulle-controller", "--engine=traefik"},
		{"Deployment", "tulle-controller", "--entry-points=30000-30001"},
		{"Service", "tulle-controller", "15011"},
		{"DaemonSet", "tulle-proxy", "docker.io/library/traefik:v2.11.53"},
		{"DaemonSet", "tulle-proxy", `"args":["dns",`},
		{"DaemonSet", "tulle-proxy", `"--tracing"`},
		{"NetworkPolicy", "tulle-proxy", `"endPort":30001,"port":30000`},
		{"NetworkPolicy", "tulle-controller", "15011"},
		{"Role", "tulle-controller", "tulle-traefik-tls"},
	} {
		data, err := json.Marshal(find(t, r, c.kind, c.name))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(data), c.want) {
			t.Errorf("%s %s doesn't contain %s:\n%s", c.kind, c.name, c.want, data)
		}
	}
	for _, o := range render(t, everything).Objects {
		if o.GetName() == "tulle-traefik" {
			t.Error("the mesh's own proxy has a configuration of Traefik")
		}
	}
}

func TestSchemaRefuses(t *testing.T) {
	for name, c := range map[string]struct{ values, want string }{
		"misspelt":          {"proxy: {acessLog: true}", "acessLog"},
		"unknown at top":    {"foo: 1", "foo"},
		"ill-typed":         {"controller: {replicas: two}", "replicas"},
		"too few":           {"controller: {replicas: 0}", "replicas"},
		"not an option":     {"addresses: {http: both}", "addresses"},
		"zone of the DNS":   {"zones: [cluster.local]", "zones"},
		"unknown engine":    {"proxy: {engine: envoy}", "engine"},
		"own ports":         {"proxy: {traefik: {entryPoints: {first: 15000, last: 16000}}}", "first"},
		"backwards range":   {"proxy: {engine: traefik, traefik: {entryPoints: {first: 20001, last: 20000}}}", "first is after last"},
		"less than nothing": {"proxy: {limits: {bufferedMiB: -1}}", "bufferedMiB"},
		"no zone":           {"zones: []", "zones"},
		"upper case zone":   {"zones: [Mesh]", "zones"},
		"bad digest":        {"proxy: {image: {digest: latest}}", "digest"},
		"bad CIDR":          {"endpoints: {allow: [10.0.0.1]}", "allow"},
		"config map's name": {"dns: {configMaps: [{name: coredns}]}", "namespace"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Render(Release{Values: parse(t, c.values)})
			if err == nil {
				t.Fatal("rendered")
			}
			if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "next: ") {
				t.Errorf("the error doesn't name %s or say what to do next: %v", c.want, err)
			}
		})
	}
}

// Every value has a comment in values.yaml, itself or one of those above it, and the schema knows every default.
func TestSchemaKnowsEveryValue(t *testing.T) {
	c, err := Chart()
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(c.Schema, &schema); err != nil {
		t.Fatal(err)
	}
	properties := schema["properties"].(map[string]any)
	for _, k := range slices.Sorted(maps.Keys(c.Values)) {
		if properties[k] == nil {
			t.Errorf("the schema doesn't know %s", k)
		}
	}
	for k := range properties {
		if _, has := c.Values[k]; !has && k != "global" {
			t.Errorf("values.yaml has no default for %s", k)
		}
	}
}

func TestCRDs(t *testing.T) {
	want := map[string][]string{ // storage version first; what is not served before controllers convert is in brackets
		"trafficsplits.split.smi-spec.io":   {"v1alpha4", "v1alpha3", "(v1alpha2)", "(v1alpha1)"},
		"httproutegroups.specs.smi-spec.io": {"v1alpha4", "v1alpha3", "(v1alpha2)", "(v1alpha1)"},
		"tcproutes.specs.smi-spec.io":       {"v1alpha4", "(v1alpha3)", "(v1alpha2)", "(v1alpha1)"},
		"udproutes.specs.smi-spec.io":       {"v1alpha4"},
		"traffictargets.access.smi-spec.io": {"v1alpha3", "v1alpha2", "(v1alpha1)"},
	}
	got := map[string][]string{}
	for _, o := range render(t, "{}").CRDs {
		var crd apiextensionsv1.CustomResourceDefinition
		typed(t, o, &crd)
		for i, v := range crd.Spec.Versions {
			name := v.Name
			if !v.Served {
				name = "(" + name + ")"
			}
			got[crd.Name] = append(got[crd.Name], name)
			if v.Storage != (i == 0) || v.Schema == nil || len(v.AdditionalPrinterColumns) == 0 {
				t.Errorf("%s %s: storage %v, %d columns", crd.Name, v.Name, v.Storage, len(v.AdditionalPrinterColumns))
			}
			// Without a conversion, versions that are served side by side must have one schema.
			if diff := cmp.Diff(crd.Spec.Versions[0].Schema, v.Schema); v.Served && diff != "" {
				t.Errorf("%s %s is another schema than the stored one:\n%s", crd.Name, v.Name, diff)
			}
		}
		if !slices.Contains(crd.Spec.Names.Categories, "smi") {
			t.Errorf("%s is not of the category smi", crd.Name)
		}
		if asks := crd.Annotations[smi.ConversionAnnotation] == smi.ConversionByWebhook; asks != (len(crd.Spec.Versions) > 1) {
			t.Errorf("%s asks for conversion: %v", crd.Name, asks)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("versions (-want +got):\n%s", diff)
	}
}

// TestSchemas: what makes no sense in a version is refused there, and what does is taken.
func TestSchemas(t *testing.T) {
	schemas := map[string]*structuralschema.Structural{}
	for _, o := range render(t, "{}").CRDs {
		var crd apiextensionsv1.CustomResourceDefinition
		typed(t, o, &crd)
		for _, v := range crd.Spec.Versions {
			var internal apiextensions.JSONSchemaProps
			if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema, &internal, nil); err != nil {
				t.Fatal(err)
			}
			structural, err := structuralschema.NewStructural(&internal)
			if err != nil {
				t.Fatal(err)
			}
			if errs := structuralschema.ValidateStructural(field.NewPath(""), structural); len(errs) > 0 {
				t.Errorf("%s %s: %v", crd.Name, v.Name, errs)
			}
			schemas[crd.Spec.Names.Kind+" "+v.Name] = structural
		}
	}
	const split, ok = "spec: {service: web, backends: [{service: a, weight: %s}]}", ""
	const target = "destination: {kind: %s, name: a}, sources: [{kind: ServiceAccount, name: b}], %s: [%s]"
	const rule = "{kind: TCPRoute, name: r}"
	for _, c := range []struct{ kind, object, want string }{
		{"TrafficSplit v1alpha4", fmt.Sprintf(split, "1"), ok},
		{"TrafficSplit v1alpha4", fmt.Sprintf(split, "-1"), "weight"},
		{"TrafficSplit v1alpha4", fmt.Sprintf(split, "2147483648"), "weight"},
		{"TrafficSplit v1alpha4", fmt.Sprintf(split, "1.5"), "weight"},
		{"TrafficSplit v1alpha4", fmt.Sprintf(split, "500m"), "weight"},
		{"TrafficSplit v1alpha4", "spec: {service: web, backends: []}", "backends"},
		{"TrafficSplit v1alpha4", "spec: {service: web, backends: [{service: a, weight: 1}], matches: [{kind: TCPRoute, name: r}]}", "matches"},
		{"TrafficSplit v1alpha2", fmt.Sprintf(split, "500m"), "weight"},
		{"TrafficSplit v1alpha1", fmt.Sprintf(split, "500m"), ok},
		{"TrafficSplit v1alpha1", fmt.Sprintf(split, `"100"`), ok},
		{"TrafficSplit v1alpha1", fmt.Sprintf(split, "5"), ok},
		{"TrafficSplit v1alpha1", fmt.Sprintf(split, `"1e3"`), ok},
		{"TrafficSplit v1alpha1", fmt.Sprintf(split, `"1e9999999"`), "weight"},
		{"TrafficSplit v1alpha1", fmt.Sprintf(split, `"-1"`), "weight"},
		{"TrafficSplit v1alpha1", fmt.Sprintf(split, "-1"), "weight"},
		{"TrafficSplit v1alpha1", fmt.Sprintf(split, "all"), "weight"},
		{"HTTPRouteGroup v1alpha4", "spec: {matches: [{name: m, methods: [GET, '*'], headers: [{a: b}]}]}", ok},
		{"HTTPRouteGroup v1alpha4", "spec: {matches: [{name: m, methods: [GET POST]}]}", "methods"},
		{"HTTPRouteGroup v1alpha2", "matches: [{name: m, pathRegex: " + strings.Repeat("x", 4097) + "}]", "pathRegex"},
		{"HTTPRouteGroup v1alpha1", "matches: [{name: m, pathRegex: /a}]", ok},
		{"TCPRoute v1alpha4", "spec: {matches: {ports: [80, 65536]}}", "ports"},
		{"TCPRoute v1alpha4", "{}", ok},
		{"TCPRoute v1alpha1", "{}", ok},
		{"UDPRoute v1alpha4", "spec: {matches: {ports: [0]}}", "ports"},
		{"TrafficTarget v1alpha3", fmt.Sprintf("spec: {"+target+"}", "ServiceAccount", "rules", rule), ok},
		{"TrafficTarget v1alpha3", fmt.Sprintf("spec: {"+target+"}", "ServiceAccount", "rules", ""), "rules"},
		{"TrafficTarget v1alpha3", fmt.Sprintf("spec: {"+target+"}", "Service", "rules", rule), "destination.kind"},
		{"TrafficTarget v1alpha2", fmt.Sprintf("spec: {"+target+"}", "ServiceAccount", "rules", "{kind: GRPCRoute, name: r}"), "kind"},
		{"TrafficTarget v1alpha1", fmt.Sprintf("{"+target+"}", "ServiceAccount", "specs", rule), ok},
		{"TrafficTarget v1alpha1", fmt.Sprintf("{"+target+"}", "ServiceAccount", "rules", rule), "specs"},
	} {
		var o any
		if err := yaml.Unmarshal([]byte(c.object), &o); err != nil {
			t.Fatal(err)
		}
		errs := validate.NewSchemaValidator(schemas[c.kind].ToKubeOpenAPI(), nil, "", strfmt.Default).Validate(o).AsError()
		if (errs == nil) != (c.want == ok) || errs != nil && !strings.Contains(errs.Error(), c.want) {
			t.Errorf("%s %.80s: %v, want %q", c.kind, c.object, errs, c.want)
		}
	}
}

func TestReadValues(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.yaml")
	write(t, a, "proxy: {accessLog: true, drainLimit: 5s}\nzones: [a]\n")
	write(t, b, "proxy: {drainLimit: 9s}\n")
	got, err := ReadValues(strings.NewReader("log: {level: debug}"), ValuesSource{
		Files: []string{a, b, "-"}, Set: []string{"zones={mesh,x}", "controller.replicas=3"}, SetString: []string{"proxy.image.tag=12e3"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := Values{
		"proxy": map[string]any{"accessLog": true, "drainLimit": "9s", "image": map[string]any{"tag": "12e3"}}, "zones": []any{"mesh", "x"},
		"log": map[string]any{"level": "debug"}, "controller": map[string]any{"replicas": int64(3)},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("values (-want +got):\n%s", diff)
	}
	if _, err := ReadValues(nil, ValuesSource{Files: []string{filepath.Join(dir, "none")}}); err == nil || !strings.Contains(err.Error(), "next: ") {
		t.Errorf("a missing file gives %v", err)
	}
}

func render(t *testing.T, values string) Rendered {
	t.Helper()
	r, err := Render(Release{Values: parse(t, values)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func parse(t *testing.T, values string) Values {
	t.Helper()
	var v Values
	if err := yaml.UnmarshalStrict([]byte(values), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func find(t *testing.T, r Rendered, kind, name string) *unstructured.Unstructured {
	t.Helper()
	for _, o := range r.Objects {
		if o.GetKind() == kind && o.GetName() == name {
			return o
		}
	}
	t.Fatalf("no %s %s", kind, name)
	return nil
}

func typed(t *testing.T, o *unstructured.Unstructured, into any) {
	t.Helper()
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, into); err != nil {
		t.Fatalf("%s %s: %v", o.GetKind(), o.GetName(), err)
	}
}

func write(t *testing.T, name, data string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}
