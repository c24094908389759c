package topology_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/smi"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// What an enforced workload serves may be called past the mesh, ready or not.
func TestExposed(t *testing.T) {
	r := protected(smi.Objects{})
	web := topology.Name{Namespace: "shop", Name: "web"}
	want := []topology.Exposed{{Workload: web, Pod: topology.Name{Namespace: "shop", Name: "web-1"}, Port: 8080}}
	build := func(mode topology.AccessMode) []topology.Exposed {
		got, _ := topology.Build(topology.Config{AccessDefault: mode}, r)
		return got.Exposed
	}
	for mode, want := range map[topology.AccessMode][]topology.Exposed{
		topology.AccessOff: nil, topology.AccessAudit: nil, topology.AccessEnforce: want,
	} {
		if d := cmp.Diff(want, build(mode)); d != "" {
			t.Errorf("%s (-want +got):\n%s", mode, d)
		}
	}
	no := false
	r.EndpointSlices[0].Endpoints[0].Conditions.Ready = &no
	if d := cmp.Diff(want, build(topology.AccessEnforce)); d != "" {
		t.Errorf("not ready (-want +got):\n%s", d)
	}
	r.Pods = nil
	if d := cmp.Diff([]topology.Exposed(nil), build(topology.AccessOff)); d != "" {
		t.Error(d)
	}
}

func TestAccessOfEveryWorkload(t *testing.T) {
	label := func(mode string) map[string]string { return map[string]string{topology.AccessLabel: mode} }
	access := topology.Access(topology.Config{AccessDefault: topology.AccessAudit, MeshNamespace: "mesh"}, topology.Resources{
		Namespaces:      []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: label("enforce")}}, {ObjectMeta: metav1.ObjectMeta{Name: "lab", Labels: label("off")}}},
		ServiceAccounts: []*corev1.ServiceAccount{{ObjectMeta: metav1.ObjectMeta{Namespace: "lab", Name: "web", Labels: label("enforce")}}},
	})
	for name, want := range map[topology.Name]topology.AccessMode{
		{Namespace: "shop", Name: "web"}: topology.AccessEnforce, {Namespace: "lab", Name: "web"}: topology.AccessEnforce,
		{Namespace: "lab", Name: "api"}: topology.AccessOff, {Namespace: "else", Name: "web"}: topology.AccessAudit, {Namespace: "mesh", Name: "web"}: topology.AccessOff,
	} {
		if got := access(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}
