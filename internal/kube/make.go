package kube

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// patches is a client of one kind in one namespace.
type patches[T any] interface {
	Patch(ctx context.Context, name string, t types.PatchType, data []byte, o metav1.PatchOptions, subresources ...string) (T, error)
}

// object is one of any kind.
type object interface {
	metav1.Object
	runtime.Object
}

// apply makes a core object by server-side apply: a role can't say which names may be created, but of a patch that creates it
// can. So nobody can put one of his where another process of the mesh is about to make its own.
func apply[T object](ctx context.Context, to patches[T], kind string, o T, options metav1.PatchOptions) error {
	o.GetObjectKind().SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind))
	data, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	_, err = to.Patch(ctx, o.GetName(), types.ApplyPatchType, data, options)
	return err //nolint:wrapcheck // the caller says what it is about
}

// makeSecret makes a Secret that isn't there. One that somebody else has made meanwhile stays as it is.
func makeSecret(ctx context.Context, client kubernetes.Interface, s *corev1.Secret) error {
	return unlessThere(apply(ctx, client.CoreV1().Secrets(s.Namespace), "Secret", s, newcomer()))
}

// makeConfigMap is makeSecret for a ConfigMap.
func makeConfigMap(ctx context.Context, client kubernetes.Interface, m *corev1.ConfigMap) error {
	return unlessThere(apply(ctx, client.CoreV1().ConfigMaps(m.Namespace), "ConfigMap", m, newcomer()))
}

// newcomer is an owner that has never owned anything: what is there and differs is a conflict.
func newcomer() metav1.PatchOptions { return metav1.PatchOptions{FieldManager: "tulle-" + rand.Text()} }

func unlessThere(err error) error {
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}
