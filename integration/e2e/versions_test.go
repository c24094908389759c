package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/smi"
)

// smiKinds are the SMI kinds with the versions that exist of them, the newest, which is stored, last.
var smiKinds = []struct {
	group, resource, kind string
	versions              []string
}{
	{smi.SplitGroup, "trafficsplits", "TrafficSplit", []string{"v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4"}},
	{smi.SpecsGroup, "httproutegroups", "HTTPRouteGroup", []string{"v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4"}},
	{smi.SpecsGroup, "tcproutes", "TCPRoute", []string{"v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4"}},
	{smi.SpecsGroup, "udproutes", "UDPRoute", []string{"v1alpha4"}},
	{smi.AccessGroup, "traffictargets", "TrafficTarget", []string{"v1alpha1", "v1alpha2", "v1alpha3"}},
}

// smiSpecs are objects as people write them in each version, by kind and version.
var smiSpecs = map[string]string{
	"TrafficSplit v1alpha1":   `{spec: {service: web, backends: [{service: web-v1, weight: 500m}, {service: web-v2, weight: 1}]}}`,
	"TrafficSplit v1alpha2":   `{spec: {service: web, backends: [{service: web-v1, weight: 1}, {service: web-v2, weight: 2}]}}`,
	"TrafficSplit v1alpha3":   `{spec: {service: web, backends: [{service: web-v1, weight: 1}], matches: [{kind: HTTPRouteGroup, name: beta}]}}`,
	"TrafficSplit v1alpha4":   `{spec: {service: web, backends: [{service: web-v1, weight: 1500}], matches: [{kind: HTTPRouteGroup, name: beta}]}}`,
	"HTTPRouteGroup v1alpha1": `{matches: [{name: a, pathRegex: /a, methods: [GET]}]}`,
	"HTTPRouteGroup v1alpha2": `{matches: [{name: a, headers: {x-beta: "yes"}}]}`,
	"HTTPRouteGroup v1alpha3": `{spec: {matches: [{name: a, headers: [{x-beta: "yes"}]}, {name: b}]}}`,
	"HTTPRouteGroup v1alpha4": `{spec: {matches: [{name: a, headers: [{x-beta: "<yes>", x-gamma: "1"}], methods: ["*"]}]}}`,
	"TCPRoute v1alpha1":       `{}`,
	"TCPRoute v1alpha2":       `{}`,
	"TCPRoute v1alpha3":       `{spec: {}}`,
	"TCPRoute v1alpha4":       `{spec: {matches: {name: db, ports: [3306, 6446]}}}`,
	"UDPRoute v1alpha4":       `{spec: {matches: {ports: [989]}}}`,
	"TrafficTarget v1alpha1":  `{destination: {kind: ServiceAccount, name: default, port: 80}, specs: [{kind: TCPRoute, name: tcproute-v1alpha4}], sources: [{kind: ServiceAccount, name: default}]}`,
	"TrafficTarget v1alpha2":  `{spec: {destination: {kind: ServiceAccount, name: default, port: 80}, rules: [{kind: TCPRoute, name: tcproute-v1alpha4}], sources: [{kind: ServiceAccount, name: default}]}}`,
	"TrafficTarget v1alpha3":  `{spec: {destination: {kind: ServiceAccount, name: default}, rules: [{kind: HTTPRouteGroup, name: httproutegroup-v1alpha4, matches: [a]}], sources: [{kind: ServiceAccount, name: default}]}}`,
}

// versions: objects of every SMI version, what the API server says of those that make no sense, and the API server without
// the mesh.
func versions(t *testing.T, e *env) {
	v := e.versions(t, "e2e-versions")
	t.Run("every version in every other", v.everyVersion)
	t.Run("an older client keeps what it does not know", v.olderClient)
	t.Run("what makes no sense is refused", v.refused)
	t.Run("splits of Flagger and Argo Rollouts", v.splits)
	t.Run("tulle check", func(t *testing.T) {
		if out, err := e.tulle(t, e.release, "check"); !strings.Contains(out, "the API server has SMI objects converted") || !strings.Contains(out, "the API server has SMI objects judged") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("no controllers", v.noControllers)
}

type versionsSuite struct {
	e      *env
	ns     string
	client dynamic.Interface
}

func (e *env) versions(t *testing.T, namespace string) *versionsSuite {
	t.Helper()
	v := &versionsSuite{e: e, ns: e.namespace(t, namespace)}
	config, err := clientcmd.BuildConfigFromFlags("", e.kubectl.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	if v.client, err = dynamic.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v *versionsSuite) of(group, version, resource string) dynamic.ResourceInterface {
	return v.client.Resource(schema.GroupVersionResource{Group: group, Version: version, Resource: resource}).Namespace(v.ns)
}

// object is the one that was written in a version.
func (v *versionsSuite) object(t *testing.T, group, kind, version, name string) *unstructured.Unstructured {
	t.Helper()
	o := map[string]any{}
	if err := yaml.Unmarshal([]byte(smiSpecs[kind+" "+version]), &o); err != nil {
		t.Fatal(err)
	}
	maps.Copy(o, map[string]any{"apiVersion": group + "/" + version, "kind": kind, "metadata": map[string]any{"name": name, "namespace": v.ns}})
	u := &unstructured.Unstructured{}
	b, err := yaml.Marshal(o)
	if err == nil {
		b, err = yaml.YAMLToJSON(b)
	}
	if err == nil {
		err = u.UnmarshalJSON(b)
	}
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// create writes an object of each kind in each version.
func (v *versionsSuite) create(t *testing.T) {
	t.Helper()
	for _, k := range smiKinds {
		for _, version := range k.versions {
			o := v.object(t, k.group, k.kind, version, strings.ToLower(k.kind)+"-"+version)
			if _, err := v.of(k.group, version, k.resource).Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
				t.Fatalf("%s %s: %v", k.kind, version, err)
			}
		}
	}
}

func (v *versionsSuite) everyVersion(t *testing.T) {
	v.create(t)
	for _, k := range smiKinds {
		for _, written := range k.versions {
			want := v.object(t, k.group, k.kind, written, "").Object
			for _, read := range k.versions {
				got, err := v.of(k.group, read, k.resource).Get(t.Context(), strings.ToLower(k.kind)+"-"+written, metav1.GetOptions{})
				if err != nil {
					t.Fatalf("%s, written in %s, read in %s: %v", k.kind, written, read, err)
				}
				// What is read in another version is brought back by the conversion alone, apart from the API server.
				back, err := smi.Convert(runtime.DeepCopyJSON(got.Object), k.group+"/"+written)
				if err != nil {
					t.Fatal(err)
				}
				if a, b := body(want), body(back); a != b {
					t.Errorf("%s, written in %s, read in %s:\n%s\nwant\n%s", k.kind, written, read, b, a)
				}
				if object, problems := smi.Decode(got.Object); object == nil {
					t.Errorf("%s, written in %s, read in %s: %v", k.kind, written, read, problems)
				}
			}
		}
		for _, read := range k.versions {
			list, err := v.of(k.group, read, k.resource).List(t.Context(), metav1.ListOptions{})
			if err != nil || len(list.Items) != len(k.versions) || slices.ContainsFunc(list.Items, func(o unstructured.Unstructured) bool { return o.GetAPIVersion() != k.group+"/"+read }) {
				t.Errorf("the list of %s in %s: %v, %v", k.resource, read, list, err)
			}
		}
	}
	out := v.e.run(t, "-n", v.ns, "get", "trafficsplits.v1alpha1.split.smi-spec.io", "-o", "wide")
	if !strings.Contains(out, `"weight":"500m"`) {
		t.Errorf("kubectl get shows no quantities: %s", out)
	}
}

// body is an object without its metadata, as text.
func body(o map[string]any) string {
	o = maps.Clone(o)
	delete(o, "metadata")
	b, err := yaml.Marshal(o)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// olderClient: a client of v1alpha2 that knows no matches changes the weights, as Flagger does.
func (v *versionsSuite) olderClient(t *testing.T) {
	old := v.of(smi.SplitGroup, "v1alpha2", "trafficsplits")
	o, err := old.Get(t.Context(), "trafficsplit-v1alpha4", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	o.Object["spec"] = map[string]any{"service": "web", "backends": []any{map[string]any{"service": "web-v2", "weight": int64(7)}}}
	if _, err := old.Update(t.Context(), o, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	o, err = v.of(smi.SplitGroup, "v1alpha4", "trafficsplits").Get(t.Context(), "trafficsplit-v1alpha4", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(o.Object["spec"]); got != "map[backends:[map[service:web-v2 weight:7]] matches:[map[kind:HTTPRouteGroup name:beta]] service:web]" {
		t.Errorf("stored: %s", got)
	}
}

// refused: schemas and the webhook say at once what would be a Problem.
func (v *versionsSuite) refused(t *testing.T) {
	for what, c := range map[string]struct{ object, want string }{
		"a regex":         {`{apiVersion: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, metadata: {name: bad}, spec: {matches: [{name: m, pathRegex: "(["}]}}`, "InvalidRegex: matches[0]: pathRegex: "},
		"a regex of old":  {`{apiVersion: specs.smi-spec.io/v1alpha1, kind: HTTPRouteGroup, metadata: {name: bad}, matches: [{name: m, pathRegex: "(?=x)"}]}`, "InvalidRegex: matches[0]: pathRegex: "},
		"a header's name": {`{apiVersion: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, metadata: {name: bad}, spec: {matches: [{name: m, headers: [{x y: z}]}]}}`, "is not a header"},
		"no sources":      {`{apiVersion: access.smi-spec.io/v1alpha3, kind: TrafficTarget, metadata: {name: bad}, spec: {destination: {kind: ServiceAccount, name: a}, rules: [{kind: TCPRoute, name: r}]}}`, "spec.sources: Required value"},
		"a weight":        {`{apiVersion: split.smi-spec.io/v1alpha1, kind: TrafficSplit, metadata: {name: bad}, spec: {service: web, backends: [{service: a, weight: 100n}]}}`, "InvalidWeight: spec.backends[0].weight: "},
		"a namespace":     {`{apiVersion: split.smi-spec.io/v1alpha4, kind: TrafficSplit, metadata: {name: bad}, spec: {service: web.other, backends: [{service: a, weight: 1}]}}`, "InvalidObject: spec.service: "},
	} {
		v.e.eventually(t, what+" is refused", func() error {
			err := v.e.tryApply(t, v.ns, c.object)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				return fmt.Errorf("it says %w, want %q", err, c.want)
			}
			return nil
		})
	}
	// What may become right is a warning.
	ctx, cancel := context.WithTimeout(t.Context(), execTimeout)
	defer cancel()
	cmd := v.e.kubectl.Command(ctx, "-n", v.ns, "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(`{apiVersion: split.smi-spec.io/v1alpha2, kind: TrafficSplit, metadata: {name: early}, spec: {service: later, backends: [{service: later-v1, weight: 1}]}}`)
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "Warning: RootNotFound: ") {
		t.Errorf("a split before its services: %v: %s", err, out)
	}
}

// splits in v1alpha1, with quantities for weights, as Flagger and Argo Rollouts write them, split the traffic.
func (v *versionsSuite) splits(t *testing.T) {
	ns := v.e.namespace(t, "e2e-quantities")
	for name, version := range map[string]string{"web": "root", "web-primary": "v1", "web-canary": "v2"} {
		v.e.apply(t, ns, file(t, "backend.yaml", "$NAME", name, "$REPLICAS", "1", "$VERSION", version))
	}
	v.e.rollout(t, ns, "deployment/web", "deployment/web-primary", "deployment/web-canary")
	for _, c := range []struct {
		name, primary, canary string
		want                  int // of 60, to the canary
	}{
		{"Flagger", `"90"`, `"10"`, 6},
		{"Argo Rollouts", "50", "50", 30},
		{"thousandths", "500m", `"1"`, 40},
	} {
		v.e.apply(t, ns, fmt.Sprintf(`{apiVersion: split.smi-spec.io/v1alpha1, kind: TrafficSplit, metadata: {name: web}, spec: {service: web, backends: [{service: web-primary, weight: %s}, {service: web-canary, weight: %s}]}}`, c.primary, c.canary))
		v.e.inARow(t, c.name, 2, settleTimeout, func() error {
			got := v.e.clients[0].call(t, "get", "-n", "60", "http://web.e2e-quantities.mesh/")
			if got.ByVersion["v2"] != c.want || got.ByVersion["v1"] != 60-c.want {
				return fmt.Errorf("60 calls went to %v", got.ByVersion)
			}
			return nil
		})
	}
}

// noControllers: without controllers the version that is stored can be written, read and deleted, and a namespace with
// objects can be deleted.
func (v *versionsSuite) noControllers(t *testing.T) {
	v.e.scaleControllers(t, 0)
	defer v.e.scaleControllers(t, 2)
	for _, k := range smiKinds {
		newest := k.versions[len(k.versions)-1]
		v.writeReadDelete(t, k.group, k.kind, k.resource, newest, false)
	}
	v.e.apply(t, v.ns, `{apiVersion: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, metadata: {name: unjudged}, spec: {matches: [{name: m, pathRegex: "(["}]}}`)
	// It holds objects that were written in every version.
	v.e.run(t, "delete", "namespace", v.ns, "--timeout="+settleTimeout.String())
}

// writeReadDelete does what clients do in one version. A server-side apply looks at other versions, too.
func (v *versionsSuite) writeReadDelete(t *testing.T, group, kind, resource, version string, apply bool) {
	t.Helper()
	client := v.of(group, version, resource)
	for _, name := range []string{"new", strings.ToLower(kind) + "-" + version} {
		o, err := client.Get(t.Context(), name, metav1.GetOptions{})
		if name == "new" {
			o, err = client.Create(t.Context(), v.object(t, group, kind, version, name), metav1.CreateOptions{})
		}
		if err != nil {
			t.Errorf("%s %s: %v", kind, name, err)
			continue
		}
		o.SetLabels(map[string]string{"changed": "yes"})
		if _, err := client.Update(t.Context(), o, metav1.UpdateOptions{}); err != nil {
			t.Errorf("update %s %s: %v", kind, name, err)
		}
	}
	// Those that older versions wrote, and whose fields belong to managers of these versions.
	list, err := client.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatalf("list %s: %v", resource, err)
	}
	for i := range list.Items {
		o := &list.Items[i]
		o.SetLabels(map[string]string{"changed": "yes"})
		if _, err := client.Update(t.Context(), o, metav1.UpdateOptions{}); err != nil {
			t.Errorf("update %s %s: %v", kind, o.GetName(), err)
		}
		applied := &unstructured.Unstructured{Object: map[string]any{"apiVersion": o.GetAPIVersion(), "kind": kind, "metadata": map[string]any{"name": o.GetName(), "labels": map[string]any{"applied": "yes"}}}}
		if _, err := client.Apply(t.Context(), o.GetName(), applied, metav1.ApplyOptions{FieldManager: "e2e", Force: true}); err != nil && apply {
			t.Errorf("server-side apply of %s %s: %v", kind, o.GetName(), err)
		}
	}
	if err := client.Delete(t.Context(), "new", metav1.DeleteOptions{}); err != nil {
		t.Errorf("delete %s: %v", kind, err)
	}
}

// released: the mesh is taken out, and objects of every version stay: they are read, written and deleted in the version that
// is stored, and so is their namespace.
func released(t *testing.T, e *env) {
	v := e.versions(t, "e2e-released")
	v.create(t)
	if _, err := e.tulle(t, e.release, "uninstall", "--force"); err != nil {
		t.Fatal(err)
	}
	for _, k := range smiKinds {
		newest := k.versions[len(k.versions)-1]
		v.writeReadDelete(t, k.group, k.kind, k.resource, newest, true)
		for _, version := range k.versions {
			o, err := v.of(k.group, newest, k.resource).Get(t.Context(), strings.ToLower(k.kind)+"-"+version, metav1.GetOptions{})
			if err != nil {
				t.Errorf("%s, written in %s: %v", k.kind, version, err)
			} else if a, b := meaning(t, v.object(t, k.group, k.kind, version, "").Object), meaning(t, o.Object); a != b {
				t.Errorf("%s, written in %s, became\n%s\nwant\n%s", k.kind, version, b, a)
			}
		}
		if _, err := v.of(k.group, "v1alpha1", k.resource).List(t.Context(), metav1.ListOptions{}); err == nil {
			t.Errorf("%s is served in v1alpha1 without anybody who converts", k.resource)
		}
	}
	e.run(t, "delete", "namespace", v.ns, "--timeout="+settleTimeout.String())
}

// meaning is an object's body in the newest version, as text.
func meaning(t *testing.T, o map[string]any) string {
	t.Helper()
	for _, k := range smiKinds {
		if o["kind"] == k.kind {
			out, err := smi.Convert(o, k.group+"/"+k.versions[len(k.versions)-1])
			if err != nil {
				t.Fatal(err)
			}
			return body(out)
		}
	}
	return ""
}

// scaleControllers changes the number of controllers and waits for it.
func (e *env) scaleControllers(t *testing.T, n int) {
	t.Helper()
	e.run(t, "-n", meshNamespace, "scale", "deployment/tulle-controller", fmt.Sprintf("--replicas=%d", n))
	e.rollout(t, meshNamespace, "deployment/tulle-controller")
	e.eventually(t, fmt.Sprintf("%d controllers", n), func() error {
		out := e.run(t, "-n", meshNamespace, "get", "pods", "-l", "app.kubernetes.io/component=controller", "-o", "name")
		if got := len(strings.Fields(out)); got != n {
			return fmt.Errorf("%d controllers", got)
		}
		return nil
	})
}
