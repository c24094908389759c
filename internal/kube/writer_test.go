package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tulle-mesh/tulle/internal/controller"
	"github.com/tulle-mesh/tulle/internal/shadow"
)

func shadowService(i int) *corev1.Service {
	s := service("tulle-system", fmt.Sprintf("tulle-s%03d", i))
	s.Labels = map[string]string{shadow.KindLabel: shadow.KindService}
	return s
}

func shadowSlice(i int) *discoveryv1.EndpointSlice {
	name := fmt.Sprintf("tulle-s%03d", i)
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "tulle-system", Name: name + "-v4-1", Labels: map[string]string{discoveryv1.LabelServiceName: name, discoveryv1.LabelManagedBy: shadow.ManagedBy}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}}},
	}
}

func (c *cluster) writer() *Writer {
	return NewWriter(WriterConfig{Client: c.kube, Namespace: "tulle-system", Source: c.source, Budget: 20 * time.Second})
}

// verbs are the writes that the API server got, as "create services tulle-s001".
func (c *cluster) verbs() []string {
	var out []string
	for _, a := range c.kube.Actions() {
		switch a := a.(type) {
		case clienttesting.CreateAction:
			o, _ := a.GetObject().(metav1.Object)
			out = append(out, a.GetVerb()+" "+a.GetResource().Resource+" "+o.GetName())
		case clienttesting.DeleteAction:
			out = append(out, a.GetVerb()+" "+a.GetResource().Resource+" "+a.GetName())
		}
	}
	return out
}

func TestApplyWritesAndIsSeen(t *testing.T) {
	c := newCluster(t)
	c.start()
	var changes shadow.Changes
	for i := range 50 {
		changes.CreateServices = append(changes.CreateServices, shadowService(i))
		changes.CreateSlices = append(changes.CreateSlices, shadowSlice(i))
	}
	if n, err := c.writer().Apply(t.Context(), changes); err != nil || n != 100 {
		t.Fatalf("%d writes, %v", n, err)
	}
	// When Apply is back, the Source knows.
	s := c.source.Snapshot().Shadow
	if len(s.Services) != 50 || len(s.Slices) != 50 {
		t.Errorf("%d services, %d slices", len(s.Services), len(s.Slices))
	}
	// Every Service before its slice.
	done := map[string]bool{}
	for _, v := range c.verbs() {
		f := strings.Fields(v)
		if of, ok := strings.CutSuffix(f[2], "-v4-1"); ok && !done[of] {
			t.Errorf("%s before its Service", v)
		}
		done[f[2]] = true
	}

	updated := s.Services[0].DeepCopy()
	updated.Spec.Ports[0].Port = 81
	changes = shadow.Changes{UpdateServices: []*corev1.Service{updated}, DeleteServices: s.Services[40:], DeleteSlices: s.Slices[40:], CreateServices: []*corev1.Service{shadowService(60)}}
	c.kube.ClearActions()
	if _, err := c.writer().Apply(t.Context(), changes); err != nil {
		t.Fatal(err)
	}
	s = c.source.Snapshot().Shadow
	if len(s.Services) != 41 || len(s.Slices) != 40 || s.Services[0].Spec.Ports[0].Port != 81 {
		t.Errorf("%d services, %d slices, port %d", len(s.Services), len(s.Slices), s.Services[0].Spec.Ports[0].Port)
	}
	deleting := false
	for _, v := range c.verbs() {
		if deleting && !strings.HasPrefix(v, "delete") {
			t.Errorf("%s after a deletion", v)
		}
		deleting = deleting || strings.HasPrefix(v, "delete")
	}
}

func TestOthersThatWereFasterAreNoError(t *testing.T) {
	c := newCluster(t, shadowService(1), shadowService(2))
	c.start()
	gone := shadowService(9)
	changes := shadow.Changes{CreateServices: []*corev1.Service{shadowService(1)}, UpdateServices: []*corev1.Service{gone}, DeleteServices: []*corev1.Service{gone}, DeleteSlices: []*discoveryv1.EndpointSlice{shadowSlice(9)}}
	c.kube.PrependReactor("update", "services", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewConflict(corev1.Resource("services"), "x", errors.New("changed"))
	})
	if _, err := c.writer().Apply(t.Context(), changes); err != nil {
		t.Error(err)
	}
}

func TestRefusedWritesAreNamed(t *testing.T) {
	c := newCluster(t)
	c.start()
	c.kube.PrependReactor("create", "services", func(a clienttesting.Action) (bool, runtime.Object, error) {
		create, _ := a.(clienttesting.CreateAction)
		switch o, _ := create.GetObject().(metav1.Object); o.GetName() {
		case "tulle-s001":
			return true, nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), "tulle-s001", nil)
		case "tulle-s002":
			return true, nil, apierrors.NewServiceUnavailable("later")
		}
		return false, nil, nil
	})
	_, err := c.writer().Apply(t.Context(), shadow.Changes{
		CreateServices: []*corev1.Service{shadowService(1), shadowService(2), shadowService(3)},
		CreateSlices:   []*discoveryv1.EndpointSlice{shadowSlice(1), shadowSlice(3)},
	})
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 2 {
		t.Fatalf("got %v", err)
	}
	transient := map[string]bool{}
	for _, e := range joined.Unwrap() {
		var w *controller.WriteError
		if !errors.As(e, &w) {
			t.Fatalf("got %v", e)
		}
		transient[w.Shadow] = w.Transient
	}
	if transient["tulle-s001"] || !transient["tulle-s002"] {
		t.Errorf("transient: %v", transient)
	}
	s := c.source.Snapshot().Shadow
	if len(s.Services) != 1 || len(s.Slices) != 1 {
		t.Errorf("%d services, %d slices", len(s.Services), len(s.Slices))
	}
}

func TestANamespaceThatEndsIsNoProblemOfTheService(t *testing.T) {
	c := newCluster(t)
	c.start()
	c.kube.PrependReactor("create", "services", func(clienttesting.Action) (bool, runtime.Object, error) {
		err := apierrors.NewForbidden(corev1.Resource("services"), "x", errors.New("the namespace is being terminated"))
		err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
		return true, nil, err
	})
	_, err := c.writer().Apply(t.Context(), shadow.Changes{CreateServices: []*corev1.Service{shadowService(1)}})
	var w *controller.WriteError
	if !errors.As(err, &w) || !w.Transient {
		t.Errorf("got %v", err)
	}
}

func TestBatchesEnd(t *testing.T) {
	c := newCluster(t)
	c.start()
	c.kube.PrependReactor("create", "services", func(clienttesting.Action) (bool, runtime.Object, error) {
		<-time.After(5 * time.Millisecond)
		return false, nil, nil
	})
	w := c.writer()
	w.config.Budget, w.config.Workers = 20*time.Millisecond, 1
	var changes shadow.Changes
	for i := range 500 {
		changes.CreateServices = append(changes.CreateServices, shadowService(i))
	}
	changes.DeleteServices = []*corev1.Service{shadowService(999)}
	if _, err := w.Apply(t.Context(), changes); err != nil {
		t.Fatal(err)
	}
	if n := len(c.source.Snapshot().Shadow.Services); n == 0 || n > 100 {
		t.Errorf("%d services in 20 ms of 5 ms each", n)
	}
}

func TestApplyEndsWithItsContext(t *testing.T) {
	c := newCluster(t)
	c.start()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.writer().Apply(ctx, shadow.Changes{CreateServices: []*corev1.Service{shadowService(1)}}); err != nil {
		t.Error(err)
	}
	if v := c.verbs(); len(v) != 0 {
		t.Errorf("writes: %v", v)
	}
}

func TestOlder(t *testing.T) {
	for _, tt := range []struct {
		have, want string
		older      bool
	}{{"9", "10", true}, {"10", "10", false}, {"11", "10", false}, {"", "", false}, {"a", "b", true}, {"a", "a", false}} {
		if got := older(tt.have, tt.want); got != tt.older {
			t.Errorf("older(%q, %q) = %v", tt.have, tt.want, got)
		}
	}
}
