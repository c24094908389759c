package kube

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// makeSecret makes a Secret that isn't there, by server-side apply: a role can't say which names may be created, but of a
// patch that creates it can. So nobody can put a Secret of his where another process of the mesh is about to make its own.
// One that somebody else has made meanwhile stays as it is.
func makeSecret(ctx context.Context, client kubernetes.Interface, s *corev1.Secret) error {
	s.APIVersion, s.Kind = "v1", "Secret"
	return applied(s, func(data []byte, o metav1.PatchOptions) error {
		_, err := client.CoreV1().Secrets(s.Namespace).Patch(ctx, s.Name, types.ApplyPatchType, data, o)
		return err
	})
}

// makeConfigMap is makeSecret for a ConfigMap.
func makeConfigMap(ctx context.Context, client kubernetes.Interface, m *corev1.ConfigMap) error {
	m.APIVersion, m.Kind = "v1", "ConfigMap"
	return applied(m, func(data []byte, o metav1.PatchOptions) error {
		_, err := client.CoreV1().ConfigMaps(m.Namespace).Patch(ctx, m.Name, types.ApplyPatchType, data, o)
		return err
	})
}

// applied applies as an owner that has never owned anything: what is there and differs is a conflict, and stays.
func applied(o any, apply func([]byte, metav1.PatchOptions) error) error {
	data, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	err = apply(data, metav1.PatchOptions{FieldManager: "tulle-" + rand.Text()})
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}
