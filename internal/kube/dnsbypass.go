package kube

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/tulle-mesh/tulle/internal/status"
)

// SetBypass turns the kill switch of the mesh's names on or off: with it on, they answer with the plain Services'
// addresses. It stays as it is over restarts of everything.
func SetBypass(ctx context.Context, client kubernetes.Interface, namespace string, on bool) error {
	value := any(nil) // a merge patch removes what is null
	if on {
		value = status.BypassOn
	}
	patch, err := json.Marshal(map[string]any{"data": map[string]any{status.BypassKey: value}})
	if err != nil {
		return fmt.Errorf("encode patch: %w", err)
	}
	maps := client.CoreV1().ConfigMaps(namespace)
	_, err = maps.Patch(ctx, status.ConfigMap, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "tulle"})
	if apierrors.IsNotFound(err) && on {
		_, err = maps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: status.ConfigMap, Namespace: namespace, Labels: ourLabels()},
			Data:       map[string]string{status.BypassKey: status.BypassOn},
		}, metav1.CreateOptions{FieldManager: "tulle"})
	}
	if err != nil && (on || !apierrors.IsNotFound(err)) {
		return fmt.Errorf("write ConfigMap %s/%s: %w", namespace, status.ConfigMap, err)
	}
	return nil
}

// Bypass says whether the kill switch is on.
func Bypass(ctx context.Context, client kubernetes.Interface, namespace string) (bool, error) {
	cm, err := client.CoreV1().ConfigMaps(namespace).Get(ctx, status.ConfigMap, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read ConfigMap %s/%s: %w", namespace, status.ConfigMap, err)
	}
	return cm.Data[status.BypassKey] == status.BypassOn, nil
}
