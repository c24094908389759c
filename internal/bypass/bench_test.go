package bypass_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/bypass"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// BenchmarkBuild measures a look at 5,000 closed workloads of four pods each, spread over namespaces or all in one: what a
// change of a pod costs the leader.
func BenchmarkBuild(b *testing.B) {
	for _, namespaces := range []int{200, 1} {
		in := large(5000, 4, namespaces)
		c := bypass.Config{Namespace: "tulle-system", Default: bypass.Close}
		first := bypass.Build(c, in)
		if len(first.Wanted) != 5000 {
			b.Fatalf("%d policies", len(first.Wanted))
		}
		in.Policies = first.Wanted
		b.Run(fmt.Sprintf("%d namespaces", namespaces), func(b *testing.B) {
			for b.Loop() {
				r := bypass.Build(c, in)
				if !bypass.Plan("tulle-system", r.Wanted, in.Policies).Empty() {
					b.Fatal("what was written is not what is wanted")
				}
			}
			b.ReportAllocs()
		})
	}
}

func large(workloads, pods, namespaces int) bypass.Input {
	in := bypass.Input{Enforced: func(topology.Name) bool { return true }}
	drop := &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
	for i := range workloads {
		w := topology.Name{Namespace: fmt.Sprintf("ns-%04d", i%namespaces), Name: fmt.Sprintf("web-%05d", i)}
		in.Owners = append(in.Owners, &bypass.Owner{Kind: "Deployment", Namespace: w.Namespace, Name: w.Name, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": w.Name}}})
		in.Policies = append(in.Policies, &networkingv1.NetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: "out-" + w.Name},
			Spec:       networkingv1.NetworkPolicySpec{PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": w.Name}}, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}},
		})
		for p := range pods {
			name := topology.Name{Namespace: w.Namespace, Name: fmt.Sprintf("%s-%d", w.Name, p)}
			in.Pods = append(in.Pods, &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name, Labels: map[string]string{"app": w.Name, "pod-template-hash": "abc", "tier": "backend"}},
				Spec:       corev1.PodSpec{NodeName: fmt.Sprintf("n%03d", (i+p)%500), ServiceAccountName: w.Name, Containers: []corev1.Container{{SecurityContext: drop}}},
				Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: fmt.Sprintf("10.%d.%d.%d", p, i/250, i%250)},
			})
			in.Exposed = append(in.Exposed, topology.Exposed{Workload: w, Pod: name, Port: 8080})
		}
	}
	return in
}
