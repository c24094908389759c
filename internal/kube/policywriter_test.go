package kube

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tulle-mesh/tulle/internal/bypass"
	"github.com/tulle-mesh/tulle/internal/controller"
)

func policyNamed(name string) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
}

func TestPoliciesAreWrittenAndSeen(t *testing.T) {
	c := newCluster(t, policyNamed("old"), policyNamed("changed"))
	c.start()
	w := &PolicyWriter{Client: c.kube}
	changed := policyNamed("changed")
	changed.Labels = map[string]string{"a": "b"}
	if err := w.ApplyPolicies(t.Context(), bypass.Changes{
		Create: []*networkingv1.NetworkPolicy{policyNamed("new"), policyNamed("changed")}, // the second is there already
		Update: []*networkingv1.NetworkPolicy{changed, policyNamed("gone")},
		Delete: []*networkingv1.NetworkPolicy{policyNamed("old"), policyNamed("gone")},
	}); err != nil {
		t.Fatalf("somebody else's being faster is an error: %v", err)
	}
	c.eventually("the policies as written", func(s controller.Snapshot) bool {
		return len(s.Policies) == 2 && s.Policies[0].Name == "changed" && s.Policies[0].Labels["a"] == "b" && s.Policies[1].Name == "new"
	})
}

func TestRefusedPoliciesAreNamed(t *testing.T) {
	c := newCluster(t)
	c.kube.PrependReactor("create", "networkpolicies", func(a clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(a.GetResource().GroupResource(), "a", errors.New("no"))
	})
	err := (&PolicyWriter{Client: c.kube}).ApplyPolicies(t.Context(), bypass.Changes{Create: []*networkingv1.NetworkPolicy{policyNamed("a"), policyNamed("b")}})
	e := (*controller.PolicyError)(nil)
	if !errors.As(err, &e) || e.Namespace != "shop" || e.Name != "a" || !apierrors.IsForbidden(err) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (&PolicyWriter{Client: c.kube}).ApplyPolicies(ctx, bypass.Changes{Create: []*networkingv1.NetworkPolicy{policyNamed("a")}}); err != nil {
		t.Errorf("the end of leading is told as a failure: %v", err)
	}
}

// What decides on calls past the mesh is read, and a change of it is a change.
func TestWhatSelectsPodsIsRead(t *testing.T) {
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "shop", Name: name} }
	drop := &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
	c := newCluster(t,
		&appsv1.Deployment{ObjectMeta: meta("d"), Spec: appsv1.DeploymentSpec{Selector: selector}},
		&appsv1.StatefulSet{ObjectMeta: meta("s"), Spec: appsv1.StatefulSetSpec{Selector: selector}},
		&appsv1.DaemonSet{ObjectMeta: meta("ds"), Spec: appsv1.DaemonSetSpec{Selector: selector}},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", Labels: map[string]string{"app": "web", "tier": "x"}}, Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "c", Image: "i", SecurityContext: drop, Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}, {ContainerPort: 9}}}},
		}},
	)
	c.start()
	c.eventually("owners and pods", func(s controller.Snapshot) bool {
		var kinds []string
		for _, o := range s.Owners {
			if o.Selector.MatchLabels["app"] == "web" && o.Namespace == "shop" {
				kinds = append(kinds, o.Kind+" "+o.Name)
			}
		}
		if len(s.Resources.Pods) != 1 || !slices.Equal(kinds, []string{"Deployment d", "StatefulSet s", "DaemonSet ds"}) {
			return false
		}
		p := s.Resources.Pods[0]
		return p.Labels["tier"] == "x" && !bypass.MayForge(p) && len(p.Spec.Containers[0].Ports) == 1 && p.Spec.Containers[0].Image == ""
	})
	for range len(c.source.Changed()) {
		<-c.source.Changed()
	}
	if _, err := c.kube.NetworkingV1().NetworkPolicies("shop").Create(t.Context(), policyNamed("new"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.source.Changed():
	case <-time.After(20 * time.Second):
		t.Error("a new NetworkPolicy is no change")
	}
}
