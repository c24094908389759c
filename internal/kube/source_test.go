package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tulle-mesh/tulle/internal/controller"
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/status"
)

// cluster is a Source over fake clients that behave like an API server.
type cluster struct {
	*testing.T
	kube    *fake.Clientset
	dynamic *dynamicfake.FakeDynamicClient
	source  *Source
}

func newCluster(t *testing.T, objects ...runtime.Object) *cluster {
	t.Helper()
	kinds := map[schema.GroupVersionResource]string{definitions: "CustomResourceDefinitionList"}
	for _, k := range smiKinds() {
		for n := 1; n <= k.newest; n++ {
			kinds[schema.GroupVersionResource{Group: k.group, Version: fmt.Sprint("v1alpha", n), Resource: k.plural}] = k.kind + "List"
		}
	}
	c := &cluster{T: t, kube: fake.NewClientset(objects...), dynamic: dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), kinds)}
	c.source = NewSource(SourceConfig{Client: c.kube, Dynamic: c.dynamic, Namespace: "tulle-system", Pod: "c-1", Log: slog.New(slog.DiscardHandler), Patience: time.Second})
	return c
}

func (c *cluster) start() {
	c.Helper()
	ctx, cancel := context.WithCancel(c.Context())
	done := make(chan error, 1)
	go func() { done <- c.source.Run(ctx) }()
	c.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			c.Error(err)
		}
	})
	select {
	case <-c.source.Ready():
	case <-time.After(20 * time.Second):
		c.Fatalf("not synced: %v", c.source.Waiting())
	}
}

// eventually waits until a snapshot is as it should be.
func (c *cluster) eventually(what string, ok func(controller.Snapshot) bool) {
	c.Helper()
	deadline := time.After(20 * time.Second)
	for !ok(c.source.Snapshot()) {
		select {
		case <-c.source.Changed():
		case <-deadline:
			c.Fatalf("never: %s", what)
		}
	}
}

func (c *cluster) define(plural, group string, versions ...string) *unstructured.Unstructured {
	var list []any
	for _, v := range versions {
		list = append(list, map[string]any{"name": v, "served": true})
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": plural + "." + group},
		"spec":   map[string]any{"versions": list},
		"status": map[string]any{"conditions": []any{map[string]any{"type": "Established", "status": "True"}}},
	}}
}

func (c *cluster) splits(version string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "split.smi-spec.io", Version: version, Resource: "trafficsplits"}
}

func split4(version, name string, weight any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "split.smi-spec.io/" + version, "kind": "TrafficSplit", "metadata": map[string]any{"namespace": "shop", "name": name, "uid": "u-" + name},
		"spec": map[string]any{"service": "web", "backends": []any{map[string]any{"service": "web-1", "weight": weight}}},
	}}
}

func service(namespace, name string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Port: 80}}}}
}

func proxyPod(name, node, ip string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "tulle-system", Name: name, UID: "u", Labels: map[string]string{"app.kubernetes.io/name": "tulle", "app.kubernetes.io/component": "proxy"}},
		Spec:       corev1.PodSpec{NodeName: node, ServiceAccountName: "tulle-proxy"},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}, Conditions: []corev1.PodCondition{
			{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}, {Type: corev1.PodReady, Status: corev1.ConditionTrue},
		}},
	}
}

func TestSnapshotIsSortedAndTrimmed(t *testing.T) {
	pod := proxyPod("web-1", "n1", "10.0.0.9")
	pod.Namespace, pod.Annotations = "shop", map[string]string{"x": strings.Repeat("x", 1000)}
	pod.Labels["pod-template-hash"] = "abc"
	web := service("shop", "web")
	web.Annotations = map[string]string{"tulle.dev/timeout": "1s", "mesh.traefik.io/scheme": "h2c", "kubectl.kubernetes.io/last-applied-configuration": "x"}
	c := newCluster(t, service("zoo", "a"), web, service("tulle-system", "tulle-dns"), service("shop", "api"), pod,
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"topology.kubernetes.io/zone": "z", "a": "b"}}, Status: corev1.NodeStatus{Images: []corev1.ContainerImage{{SizeBytes: 1}}}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}})
	c.start()
	s := c.source.Snapshot().Resources
	var names []string
	for _, svc := range s.Services {
		names = append(names, svc.Namespace+"/"+svc.Name)
	}
	if got := strings.Join(names, " "); got != "shop/api shop/web tulle-system/tulle-dns zoo/a" {
		t.Errorf("services: %s", got)
	}
	if a := s.Services[1].Annotations; len(a) != 2 || a["tulle.dev/timeout"] != "1s" {
		t.Errorf("annotations: %v", a)
	}
	if p := s.Pods[0]; p.Annotations != nil || len(p.Labels) != 3 || p.Status.Conditions != nil || p.Spec.NodeName != "n1" {
		t.Errorf("pod: %+v", p)
	}
	if n := s.Nodes[0]; len(n.Labels) != 1 || n.Status.Images != nil {
		t.Errorf("node: %+v", n)
	}
	if len(s.Namespaces) != 1 || len(s.ServiceAccounts) != 1 {
		t.Errorf("%d namespaces, %d accounts", len(s.Namespaces), len(s.ServiceAccounts))
	}
}

func TestSnapshotsDoNotChange(t *testing.T) {
	c := newCluster(t, service("shop", "a"), service("shop", "c"))
	c.start()
	before := c.source.Snapshot().Resources.Services
	if _, err := c.kube.CoreV1().Services("shop").Create(t.Context(), service("shop", "b"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("b is there", func(s controller.Snapshot) bool { return len(s.Resources.Services) == 3 })
	if err := c.kube.CoreV1().Services("shop").Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("a is gone", func(s controller.Snapshot) bool { return len(s.Resources.Services) == 2 })
	if len(before) != 2 || before[0].Name != "a" || before[1].Name != "c" {
		t.Errorf("the first snapshot is now %v", before)
	}
}

func TestProxies(t *testing.T) {
	ready, ending, done, other := proxyPod("p1", "n1", "10.0.0.1"), proxyPod("p2", "n1", "10.0.0.2"), proxyPod("p3", "n1", "10.0.0.3"), proxyPod("c", "n1", "10.0.0.4")
	now := metav1.Now()
	ending.DeletionTimestamp, ending.Finalizers = &now, []string{"x/y"}
	done.Status.Phase = corev1.PodFailed
	other.Labels["app.kubernetes.io/component"] = "controller"
	ready.Spec.Containers = []corev1.Container{{Name: "proxy", Image: "x", Ports: []corev1.ContainerPort{{Name: "health", ContainerPort: 15021}, {Name: "tunnel", ContainerPort: 15008}}}}
	c := newCluster(t, ready, ending, done, other, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"topology.kubernetes.io/zone": "z1"}}})
	c.start()
	got := c.source.Snapshot().Proxies
	if len(got) != 2 || got[0].Pod != "p1" || !got[0].Ready || got[0].Zone != "z1" || got[0].Addresses[0].String() != "10.0.0.1" || got[1].Ready || !got[0].Tunnels || got[1].Tunnels {
		t.Errorf("proxies: %+v", got)
	}
	ready = ready.DeepCopy()
	ready.Status.Conditions[1].Status = corev1.ConditionFalse
	if _, err := c.kube.CoreV1().Pods("tulle-system").UpdateStatus(t.Context(), ready, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("p1 is not ready", func(s controller.Snapshot) bool { return !s.Proxies[0].Ready })
}

func TestShadowsShareTheirEndpoints(t *testing.T) {
	slice := func(name, managedBy string) *discoveryv1.EndpointSlice {
		s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "tulle-system", Name: name, Labels: map[string]string{"endpointslice.kubernetes.io/managed-by": managedBy}}}
		for i := range 5 {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprint("10.0.0.", i)}})
		}
		return s
	}
	mine, unlabelled, foreign := service("tulle-system", "tulle-x"), service("tulle-system", "tulle-"+strings.Repeat("a", 20)), service("tulle-system", "tulle-dns")
	mine.Labels = map[string]string{"tulle.dev/shadow": "service"}
	c := newCluster(t, mine, unlabelled, foreign, slice("a", "tulle-controller"), slice("b", "tulle-controller"), slice("c", "someone"))
	c.start()
	got := c.source.Snapshot().Shadow
	if len(got.Services) != 2 || len(got.Slices) != 2 {
		t.Fatalf("%d services, %d slices", len(got.Services), len(got.Slices))
	}
	if &got.Slices[0].Endpoints[0] != &got.Slices[1].Endpoints[0] {
		t.Error("equal endpoints are kept twice")
	}
	if n := len(c.source.Snapshot().Resources.EndpointSlices); n != 0 {
		t.Errorf("%d slices of the mesh are among the users'", n)
	}
}

func TestSMIKindsComeAndGo(t *testing.T) {
	c := newCluster(t)
	c.start()
	ctx := t.Context()
	crds := c.dynamic.Resource(definitions)
	create := func(version string, o *unstructured.Unstructured) {
		t.Helper()
		if _, err := c.dynamic.Resource(c.splits(version)).Namespace("shop").Create(ctx, o, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	create("v1alpha2", split4("v1alpha2", "old", int64(1)))
	create("v1alpha4", split4("v1alpha4", "new", int64(1)))
	if n := len(c.source.Snapshot().Resources.SMI.TrafficSplits); n != 0 {
		t.Fatalf("%d splits without a definition", n)
	}

	// The definition appears, in old versions only.
	d, err := crds.Create(ctx, c.define("trafficsplits", "split.smi-spec.io", "v1alpha1", "v1alpha2", "v9"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	names := func(s controller.Snapshot) string {
		var out []string
		for _, sp := range s.Resources.SMI.TrafficSplits {
			out = append(out, sp.Ref.Name)
		}
		return strings.Join(out, " ")
	}
	c.eventually("splits in v1alpha2", func(s controller.Snapshot) bool { return names(s) == "old" })

	// A newer version is served: it is preferred.
	next := c.define("trafficsplits", "split.smi-spec.io", "v1alpha2", "v1alpha4")
	next.SetResourceVersion(d.GetResourceVersion())
	if _, err := crds.Update(ctx, next, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("splits in v1alpha4", func(s controller.Snapshot) bool { return names(s) == "new" })

	// One that cannot be decoded is set aside, with a Problem.
	create("v1alpha4", split4("v1alpha4", "broken", "many"))
	c.eventually("a problem", func(s controller.Snapshot) bool {
		u := s.Resources.Undecodable
		return names(s) == "new" && len(u) == 1 && u[0].Object.Name == "broken" && u[0].Object.UID == "u-broken"
	})

	// The definition goes: so do the objects.
	if err := crds.Delete(ctx, "trafficsplits.split.smi-spec.io", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("no splits", func(s controller.Snapshot) bool { return names(s) == "" && len(s.Resources.Undecodable) == 0 })

	// And it comes back.
	if _, err := crds.Create(ctx, c.define("trafficsplits", "split.smi-spec.io", "v1alpha4"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("splits again", func(s controller.Snapshot) bool { return names(s) == "new" })
}

func TestSMIKindThatCannotBeReadHoldsUpTheStartOnlyForAWhile(t *testing.T) {
	c := newCluster(t, service("shop", "a"))
	if _, err := c.dynamic.Resource(definitions).Create(t.Context(), c.define("trafficsplits", "split.smi-spec.io", "v1alpha4"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.dynamic.PrependReactor("list", "trafficsplits", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewInternalError(errors.New("conversion webhook failed"))
	})
	c.start()
	c.eventually("the problem", func(s controller.Snapshot) bool {
		u := s.Resources.Undecodable
		return len(s.Resources.Services) == 1 && len(u) == 1 && u[0].Reason == problem.KindUnreadable && strings.Contains(u[0].Message, "conversion webhook failed")
	})
}

func TestKindsThatMustBeReadHoldUpTheStart(t *testing.T) {
	c := newCluster(t)
	c.kube.PrependReactor("list", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(corev1.Resource("pods"), "", errors.New("no rights"))
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.source.Run(ctx) }()
	deadline := time.After(20 * time.Second)
	for err := c.source.Waiting(); err == nil || !strings.Contains(err.Error(), "no rights") || strings.Contains(err.Error(), "services"); err = c.source.Waiting() {
		select {
		case <-deadline:
			t.Fatalf("waiting: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	select {
	case <-c.source.Changed():
		t.Error("a change was signalled without pods")
	default:
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestWhatOtherReplicasWroteDown(t *testing.T) {
	doc := func(pod string) string {
		b, _, err := status.Encode(status.Replica{Pod: pod, Proxies: []status.Proxy{{Pod: "p", Refused: []status.Refusal{{Type: "t", Name: "n"}}}}})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	peer := proxyPod("c-2", "n1", "10.0.0.7")
	peer.Labels["app.kubernetes.io/component"] = "controller"
	c := newCluster(t, peer, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "tulle-system", Name: status.ConfigMap},
		Data:       map[string]string{status.BypassKey: "on", status.ReplicaKey("c-1"): doc("c-1"), status.ReplicaKey("c-2"): doc("c-2"), status.ReplicaKey("gone"): doc("gone"), status.ReplicaKey("bad"): "{"},
	})
	c.start()
	s := c.source.Snapshot()
	if !s.Bypass || len(s.Replicas) != 1 || s.Replicas[0].Pod != "c-2" || s.Replicas[0].Proxies[0].Refused[0].Name != "n" {
		t.Errorf("bypass %v, replicas %+v", s.Bypass, s.Replicas)
	}
}
