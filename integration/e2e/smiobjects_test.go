package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"
)

// smiObjects writes SMI objects faster than kubectl does. All that it has written is known to it.
type smiObjects struct {
	client    dynamic.Interface
	namespace string // of those that name none
	written   []*unstructured.Unstructured
}

func newSMIObjects(t *testing.T, e *env) *smiObjects {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", e.kubectl.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst = 100, 100
	config.WarningHandler = rest.NoWarnings{} // half of these objects are wrong on purpose
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return &smiObjects{client: client, namespace: accessNamespace}
}

// of is where an object is.
func (s *smiObjects) of(o *unstructured.Unstructured) dynamic.ResourceInterface {
	gv, _ := schema.ParseGroupVersion(o.GetAPIVersion()) // a wrong one is not found
	return s.client.Resource(gv.WithResource(strings.ToLower(o.GetKind()) + "s")).Namespace(o.GetNamespace())
}

// replace takes away what was written and writes other objects, in the order of the texts: those of one are older, by
// what Kubernetes says, than those of the next. What the API server finds invalid is left out, and told.
func (s *smiObjects) replace(t *testing.T, texts ...string) {
	t.Helper()
	for _, o := range s.written {
		if err := s.of(o).Delete(t.Context(), o.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
	}
	s.written = nil
	var oldest metav1.Time
	for _, text := range texts {
		s.after(t, oldest)
		for doc := range strings.SplitSeq(text, "---\n") {
			if o := s.create(t, doc); o != nil {
				oldest = o.GetCreationTimestamp()
			}
		}
	}
}

// after waits until the clock shows another second than the one in which something was made.
func (s *smiObjects) after(t *testing.T, made metav1.Time) {
	t.Helper()
	ctx, cancel := context.WithDeadline(t.Context(), made.Add(time.Second+10*time.Millisecond))
	defer cancel()
	<-ctx.Done()
}

func (s *smiObjects) create(t *testing.T, doc string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(doc), &o.Object); err != nil {
		t.Fatalf("%v: %s", err, doc)
	}
	if len(o.Object) == 0 {
		return nil
	}
	if o.GetNamespace() == "" {
		o.SetNamespace(s.namespace)
	}
	made, err := s.of(o).Create(t.Context(), o, metav1.CreateOptions{})
	switch {
	case apierrors.IsInvalid(err):
		t.Logf("refused: %v", err)
		return nil
	case err != nil:
		t.Fatal(fmt.Errorf("%s %s: %w", o.GetKind(), o.GetName(), err))
	}
	s.written = append(s.written, made)
	return made
}

// remove deletes one object and says when the API server was told.
func (s *smiObjects) remove(t *testing.T, kind, name string) time.Time {
	t.Helper()
	o := s.find(t, kind, name)
	told := time.Now()
	if err := s.of(o).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	return told
}

// restore makes a removed object again.
func (s *smiObjects) restore(t *testing.T, kind, name string) time.Time {
	t.Helper()
	o := s.find(t, kind, name).DeepCopy()
	o.SetResourceVersion("")
	told := time.Now()
	if _, err := s.of(o).Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return told
}

func (s *smiObjects) find(t *testing.T, kind, name string) *unstructured.Unstructured {
	t.Helper()
	for _, o := range s.written {
		if o.GetKind() == kind && o.GetName() == name {
			return o
		}
	}
	t.Fatalf("there is no %s %s", kind, name)
	return nil
}
