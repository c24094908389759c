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
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
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
dns: {restart: true, openshift: true, configMaps: [{namespace: kube-system, name: coredns, key: Corefile}, {namespace: kube-system, name: coredns-custom}, {namespace: dns, name: node}]}
podMonitor: {enabled: true, labels: {release: prometheus}}
prometheusRule: {enabled: true, labels: {release: prometheus}}
`

const digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestTwoRendersAreIdentical(t *testing.T) {
	for _, values := range []string{"{}", everything} {
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
	for _, values := range []string{"{}", everything} {
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
	r := render(t, "{}")
	var controller appsv1.Deployment
	var proxy appsv1.DaemonSet
	typed(t, find(t, r, "Deployment", "tulle-controller"), &controller)
	typed(t, find(t, r, "DaemonSet", "tulle-proxy"), &proxy)
	for name, spec := range map[string]corev1.PodSpec{"controller": controller.Spec.Template.Spec, "proxy": proxy.Spec.Template.Spec} {
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
			if v.ConfigMap == nil && v.EmptyDir == nil && v.Projected == nil {
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
			if o.GetKind() == "ClusterRole" && !slices.Contains(rule.Resources, "events") && !slices.Contains(rule.Resources, "tokenreviews") && !named &&
				!slices.Equal(rule.Verbs, []string{"get", "list", "watch"}) {
				t.Errorf("ClusterRole %s writes: %+v", o.GetName(), rule)
			}
		}
	}
}

func TestValuesReachTheObjects(t *testing.T) {
	r := render(t, everything)
	for _, c := range []struct{ kind, name, want string }{
		{"Deployment", "tulle-controller", "docker.io/tullemesh/tulle-controller@sha256:" + digest},
		{"Deployment", "tulle-controller", "--zones=mesh,traefik.mesh"},
		{"Deployment", "tulle-controller", "--log-level=debug"},
		{"Deployment", "tulle-controller", "imagePullSecrets"},
		{"Deployment", "tulle-controller", "--dns-config-maps=kube-system/coredns:Corefile,kube-system/coredns-custom,dns/node"},
		{"Role", "tulle-dns.tulle-system", `"resourceNames":["node"]`},
		{"DaemonSet", "tulle-proxy", "docker.io/tullemesh/tulle-proxy:v9"},
		{"DaemonSet", "tulle-proxy", "--access-log"},
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

func TestSchemaRefuses(t *testing.T) {
	for name, c := range map[string]struct{ values, want string }{
		"misspelt":          {"proxy: {acessLog: true}", "acessLog"},
		"unknown at top":    {"foo: 1", "foo"},
		"ill-typed":         {"controller: {replicas: two}", "replicas"},
		"too few":           {"controller: {replicas: 0}", "replicas"},
		"not an option":     {"addresses: {http: both}", "addresses"},
		"zone of the DNS":   {"zones: [cluster.local]", "zones"},
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
	want := map[string][]string{ // storage version first
		"trafficsplits.split.smi-spec.io":   {"v1alpha4", "v1alpha3", "v1alpha2"},
		"httproutegroups.specs.smi-spec.io": {"v1alpha4", "v1alpha3"},
		"tcproutes.specs.smi-spec.io":       {"v1alpha4", "v1alpha3", "v1alpha2", "v1alpha1"},
		"udproutes.specs.smi-spec.io":       {"v1alpha4"},
		"traffictargets.access.smi-spec.io": {"v1alpha3", "v1alpha2"},
	}
	got := map[string][]string{}
	for _, o := range render(t, "{}").CRDs {
		var crd apiextensionsv1.CustomResourceDefinition
		typed(t, o, &crd)
		for i, v := range crd.Spec.Versions {
			got[crd.Name] = append(got[crd.Name], v.Name)
			if !v.Served || v.Storage != (i == 0) || v.Schema == nil {
				t.Errorf("%s %s: served %v, storage %v", crd.Name, v.Name, v.Served, v.Storage)
			}
			// Without a conversion, versions that are served side by side must have one schema.
			if diff := cmp.Diff(crd.Spec.Versions[0].Schema, v.Schema); diff != "" {
				t.Errorf("%s %s is another schema than the stored one:\n%s", crd.Name, v.Name, diff)
			}
		}
		if !slices.Contains(crd.Spec.Names.Categories, "smi") {
			t.Errorf("%s is not of the category smi", crd.Name)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("versions (-want +got):\n%s", diff)
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

// Who may read the CA's key is one Role, by the Secret's exact name; somebody else's CA is not written to.
func TestIdentityModes(t *testing.T) {
	for _, tc := range []struct {
		values, secret, verbs string
		role, tunnel, spire   bool
	}{
		{values: "{}", secret: "tulle-identity-ca", verbs: "get update", role: true, tunnel: true},
		{values: "identity: {ca: {secret: corp-ca}}", secret: "corp-ca", verbs: "get", role: true, tunnel: true},
		{values: "identity: {mode: spire}", tunnel: true, spire: true},
		{values: "identity: {mode: \"off\"}"},
	} {
		r := render(t, tc.values)
		var role *rbacv1.Role
		for _, o := range r.Objects {
			if o.GetKind() == "Role" && o.GetName() == "tulle-identity" {
				role = &rbacv1.Role{}
				typed(t, o, role)
			}
		}
		if (role != nil) != tc.role {
			t.Errorf("%s: a role: %v", tc.values, role != nil)
		} else if role != nil {
			if rule := role.Rules[0]; !slices.Equal(rule.ResourceNames, []string{tc.secret}) || strings.Join(rule.Verbs, " ") != tc.verbs {
				t.Errorf("%s: may %v %v", tc.values, rule.Verbs, rule.ResourceNames)
			}
		}
		var proxy appsv1.DaemonSet
		typed(t, find(t, r, "DaemonSet", "tulle-proxy"), &proxy)
		tunnel := slices.ContainsFunc(proxy.Spec.Template.Spec.Containers[0].Ports, func(p corev1.ContainerPort) bool { return p.ContainerPort == 15008 })
		spire := slices.ContainsFunc(proxy.Spec.Template.Spec.Volumes, func(v corev1.Volume) bool { return v.CSI != nil && v.CSI.Driver == "csi.spiffe.io" })
		if tunnel != tc.tunnel || spire != tc.spire {
			t.Errorf("%s: tunnel %v, SPIRE's socket %v", tc.values, tunnel, spire)
		}
	}
}
