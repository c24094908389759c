package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/bypass"
	"github.com/tulle-mesh/tulle/internal/controller"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// planned is a cluster with one enforced workload behind a NodePort; its namespace says that calls past the mesh are reported.
func planned() *plan {
	port, name := int32(8080), "http"
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "shop", Name: name} }
	s := controller.Snapshot{Owners: []*bypass.Owner{{Kind: "Deployment", Namespace: "shop", Name: "web", Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}}}
	r := &s.Resources
	r.Namespaces = []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"tulle.dev/access": "enforce", bypass.Label: "report"}}}}
	r.Services = []*corev1.Service{{ObjectMeta: meta("web"), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Name: name, Port: 80}}}}}
	r.Pods = []*corev1.Pod{{ObjectMeta: meta("web-1"), Spec: corev1.PodSpec{ServiceAccountName: "web"}, Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.1.0.1"}}}
	r.Pods[0].Labels = map[string]string{"app": "web"}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: meta("web-1"), Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.1.0.1"}}},
	}
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: "web"}
	r.EndpointSlices = []*discoveryv1.EndpointSlice{slice}
	return &plan{
		snapshot: s, known: bypass.Known{Services: r.Services}, topology: topology.Config{MeshNamespace: "tulle-system"},
		bypass: bypass.Config{Namespace: "tulle-system", Default: bypass.Close},
	}
}

func TestPolicyPlan(t *testing.T) {
	var b strings.Builder
	p := planned()
	p.hidden = []string{"ingresses"}
	if err := p.write(&b); err != nil {
		t.Fatal(err)
	}
	head, policy, _ := strings.Cut(b.String(), "---\n")
	want := `# You may not read ingresses: this leaves it out, and may be wrong for that.
# shop/web, TCP port 8080
#   now open: no NetworkPolicy closes TCP port 8080
#   would be cut off, if tulle.dev/allow-direct-from does not name them: callers from outside: the Service web is of type NodePort
`
	if d := cmp.Diff(want, head); d != "" {
		t.Errorf("comments (-want +got):\n%s", d)
	}
	for _, line := range []string{"# would be written", "kind: NetworkPolicy", "namespace: shop", "endPort: 8079", "kubernetes.io/metadata.name: tulle-system"} {
		if !strings.Contains(policy, line) {
			t.Errorf("%q is not in the policy:\n%s", line, policy)
		}
	}
	b.Reset()
	p = planned()
	p.namespaces = []string{"other"}
	if err := p.write(&b); err != nil || !strings.HasPrefix(b.String(), "# No workload of these namespaces is enforced") {
		t.Errorf("of another namespace it says %s (%v)", b.String(), err)
	}
}
