package install

import (
	"context"
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tulle-mesh/tulle/internal/status"
)

// Bypass turns the kill switch of the mesh names on or off: while it is on, they answer with the plain Services'
// addresses.
func Bypass(ctx context.Context, c *Cluster, namespace string, on bool) error {
	var value any // null takes the key away
	if on {
		value = status.BypassOn
	}
	patch, err := json.Marshal(map[string]any{"data": map[string]any{status.BypassKey: value}})
	if err != nil {
		return fmt.Errorf("encode the kill switch: %w", err)
	}
	_, err = c.Kube.CoreV1().ConfigMaps(namespace).Patch(ctx, status.ConfigMap, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	if isNotFound(err) {
		return WithNext(fmt.Errorf("the controllers in namespace %s have not started yet: there is no ConfigMap %s", namespace, status.ConfigMap),
			"name the mesh's namespace with --namespace; if it is right, `tulle check` says why they don't run")
	}
	return Explain(err)
}
