package corefile

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/golden"
)

// fixture is a cluster as it stands in cluster.yaml of a golden file.
type fixture struct {
	Cluster
	dns map[string]any // OpenShift's
}

func TestFlavours(t *testing.T) {
	golden.Each(t, "testdata/flavours/*.txtar", []string{"cluster.yaml"}, func(t *testing.T, in *txtar.Archive) []txtar.File {
		docs := bytes.Split(in.Files[0].Data, []byte("---\n"))
		got := report(t, decode(t, docs))
		rand.Shuffle(len(docs), func(i, j int) { docs[i], docs[j] = docs[j], docs[i] })
		if diff := cmp.Diff(got, report(t, decode(t, docs))); diff != "" {
			t.Errorf("another order of objects gave another result:\n%s", diff)
		}
		return got
	})
}

func decode(t *testing.T, docs [][]byte) fixture {
	t.Helper()
	f := fixture{Cluster: Cluster{Mesh: "tulle-system", Listed: []Place{
		{Namespace: "kube-system", Name: "coredns"},
		{Namespace: "kube-system", Name: "coredns-custom"},
		{Namespace: "kube-system", Name: "kube-dns"},
		{Namespace: "kube-system", Name: "node-local-dns"},
		{Namespace: "kube-system", Name: "rke2-coredns-rke2-coredns"},
		{Namespace: "dns", Name: "resolver-config"},
	}}}
	for _, doc := range docs {
		var head struct {
			Kind        string
			Nameservers []netip.Addr
		}
		into(t, doc, &head)
		switch head.Kind {
		case "Deployment":
			f.Workloads = append(f.Workloads, FromDeployment(into(t, doc, &appsv1.Deployment{})))
		case "DaemonSet":
			f.Workloads = append(f.Workloads, FromDaemonSet(into(t, doc, &appsv1.DaemonSet{})))
		case "Service":
			f.Services = append(f.Services, into(t, doc, &corev1.Service{}))
		case "ConfigMap":
			f.ConfigMaps = append(f.ConfigMaps, into(t, doc, &corev1.ConfigMap{}))
		case "Node":
			f.GCE = strings.HasPrefix(into(t, doc, &corev1.Node{}).Spec.ProviderID, "gce://")
		case "DNS":
			f.OpenShift, f.dns = true, *into(t, doc, &map[string]any{})
		case "Pod":
			f.Nameservers = head.Nameservers
		default:
			t.Fatalf("kind %q in cluster.yaml", head.Kind)
		}
	}
	return f
}

func into[T any](t *testing.T, doc []byte, v *T) *T {
	t.Helper()
	if err := yaml.Unmarshal(doc, v); err != nil {
		t.Fatalf("%v in\n%s", err, doc)
	}
	return v
}

// report patches everything that is detected, checks what has to hold, and returns what is new in the objects.
func report(t *testing.T, f fixture) []txtar.File {
	t.Helper()
	targets, err := Detect(f.Cluster)
	if err != nil {
		return []txtar.File{{Name: "error", Data: fmt.Appendln(nil, err)}}
	}
	var out []txtar.File
	for _, target := range targets {
		head := fmt.Sprintf("%s, served by %s %s/%s on port %d\n", target.Kind, target.Workload.Kind, target.Workload.Namespace, target.Workload.Name, target.Port)
		out = append(out, txtar.File{Name: "target " + strings.TrimPrefix(target.String()+"/"+target.Key, "/"), Data: []byte(head)})
		b := testBlock()
		b.Zones = []string{"mesh", "traefik.mesh"}
		b.Cache = target.Kind != NodeCache
		if target.Kind == OpenShift {
			out = append(out, openShift(t, f.dns, b)...)
			continue
		}
		cm, main := f.find(target.Place), f.find(target.Main)
		patched, err := target.Patch(cm, main, b)
		if err != nil {
			out = append(out, txtar.File{Name: "error", Data: fmt.Appendln(nil, err)})
			continue
		}
		checkConfigMap(t, target, cm, main, patched, b)
		out = append(out, txtar.File{Name: "patched", Data: []byte(strings.TrimSuffix(patched.Data[target.Key], "\n") + "\n")})
		if len(patched.Annotations) > 0 {
			y, _ := yaml.Marshal(patched.Annotations)
			out = append(out, txtar.File{Name: "annotations", Data: y})
		}
	}
	return out
}

func (f fixture) find(p Place) *corev1.ConfigMap {
	for _, cm := range f.ConfigMaps {
		if cm.Namespace == p.Namespace && cm.Name == p.Name {
			return cm
		}
	}
	return nil
}

// checkConfigMap patches again, with the same and with other servers, and takes it all back.
func checkConfigMap(t *testing.T, target Target, cm, main, patched *corev1.ConfigMap, b Block) {
	t.Helper()
	if target.Kind == Corefile || target.Kind == NodeCache {
		mustPatch(t, cm.Data[target.Key], b)
	}
	if again, err := target.Patch(patched, main, b); err != nil || cmp.Diff(patched, again) != "" {
		t.Errorf("%s: a second patch changed something (%v):\n%s", target.Place, err, cmp.Diff(patched, again))
	}
	b.Servers = []netip.Addr{netip.MustParseAddr("10.96.99.99"), netip.MustParseAddr("fd00::99")}
	moved, err := target.Patch(patched, main, b)
	if err != nil || !strings.Contains(moved.Data[target.Key], "10.96.99.99") || strings.Contains(moved.Data[target.Key], "10.96.12.34") {
		t.Fatalf("%s: other servers: %v\n%v", target.Place, err, moved)
	}
	for _, p := range []*corev1.ConfigMap{patched, moved} {
		back, err := target.Unpatch(p, b.Mesh)
		if err != nil {
			t.Errorf("%s: unpatch: %v", target.Place, err)
		}
		if cm == nil && back != nil {
			t.Errorf("%s was made by the mesh and would be left: %v", target.Place, back)
		}
		if cm != nil && !sameContent(cm, back) {
			t.Errorf("%s: unpatch:\n%s", target.Place, cmp.Diff(cm, back))
		}
	}
	if cm != nil {
		if same, err := target.Unpatch(cm, b.Mesh); err != nil || same != cm {
			t.Errorf("%s: unpatching what has no block: %v", target.Place, err)
		}
	}
}

// sameContent treats no data and empty data alike, as the API does.
func sameContent(a, b *corev1.ConfigMap) bool {
	if b == nil {
		return false
	}
	a, b = a.DeepCopy(), b.DeepCopy()
	for _, c := range []*corev1.ConfigMap{a, b} {
		if len(c.Data) == 0 {
			c.Data = nil
		}
		if len(c.Annotations) == 0 {
			c.Annotations = nil
		}
	}
	return cmp.Equal(a, b)
}

func openShift(t *testing.T, obj map[string]any, b Block) []txtar.File {
	t.Helper()
	before, _ := yaml.Marshal(obj)
	patched, err := b.PatchOpenShift(obj)
	if err != nil {
		return []txtar.File{{Name: "error", Data: fmt.Appendln(nil, err)}}
	}
	if again, err := b.PatchOpenShift(patched); err != nil || cmp.Diff(patched, again) != "" {
		t.Errorf("a second patch: %v\n%s", err, cmp.Diff(patched, again))
	}
	b.Servers = []netip.Addr{netip.MustParseAddr("10.96.99.99")}
	moved, err := b.PatchOpenShift(patched)
	if err != nil || len(servers(moved)) != len(servers(patched)) {
		t.Errorf("other servers: %v\n%v", err, moved)
	}
	for _, p := range []map[string]any{patched, moved} {
		if diff := cmp.Diff(obj, UnpatchOpenShift(p, b.Mesh)); diff != "" {
			t.Errorf("unpatch:\n%s", diff)
		}
	}
	if after, _ := yaml.Marshal(obj); !bytes.Equal(before, after) {
		t.Errorf("the object that was given has changed:\n%s", after)
	}
	other := b
	other.Mesh = "second"
	if _, err := other.PatchOpenShift(patched); err == nil {
		t.Error("a second mesh could take over the entry")
	}
	y, _ := yaml.Marshal(patched)
	return []txtar.File{{Name: "patched", Data: y}}
}
