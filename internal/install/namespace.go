package install

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// createdAnnotation marks a namespace that the CLI made and may remove again.
const createdAnnotation = "tulle.dev/created-by"

// Namespace is the mesh's namespace as the CLI makes it: no pod in it may need more rights than the mesh's own.
func Namespace(name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Namespace",
		"metadata": map[string]any{
			"name": name,
			"labels": map[string]any{
				"app.kubernetes.io/name":                     "tulle",
				"pod-security.kubernetes.io/enforce":         "restricted",
				"pod-security.kubernetes.io/enforce-version": "latest",
			},
			"annotations": map[string]any{createdAnnotation: "tulle install"},
		},
	}}
}

// ensureNamespace makes the namespace if it doesn't exist. One that does is left as it is.
func (i *Installer) ensureNamespace(ctx context.Context) error {
	ns, err := i.Cluster.namespace(ctx, i.Namespace)
	if err != nil {
		return err
	}
	if ns == nil {
		r, err := i.Cluster.resource(corev1.SchemeGroupVersion.WithKind("Namespace"), "")
		if err == nil {
			_, err = r.Create(ctx, Namespace(i.Namespace), metav1.CreateOptions{FieldManager: fieldManager})
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return Explain(fmt.Errorf("create namespace %s: %w", i.Namespace, err))
		}
		i.say("namespace %s created", i.Namespace)
		return nil
	}
	if ns.Status.Phase == corev1.NamespaceTerminating {
		return WithNext(fmt.Errorf("namespace %s is being deleted", i.Namespace),
			"wait until it is gone (`kubectl get namespace %s`), then install again", i.Namespace)
	}
	return nil
}
