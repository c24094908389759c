package install

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// recordName is the ConfigMap that remembers what the CLI installed.
const recordName = "tulle-release"

// Record is what the CLI remembers of a release, in the mesh's namespace.
type Record struct {
	Version string
	Values  Values
	Objects []Ref
	CRDs    []Ref // only those that it may remove again
}

// ReadRecord returns the record of the release in the namespace, nil if there is none.
func ReadRecord(ctx context.Context, c *Cluster, namespace string) (*Record, error) {
	cm, err := c.Kube.CoreV1().ConfigMaps(namespace).Get(ctx, recordName, metav1.GetOptions{})
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, Explain(fmt.Errorf("read the release record: %w", err))
	}
	return decodeRecord(cm)
}

func decodeRecord(cm *corev1.ConfigMap) (*Record, error) {
	r := &Record{Version: cm.Data["version"], Objects: decodeRefs(cm.Data["objects"]), CRDs: decodeRefs(cm.Data["crds"])}
	if err := yaml.Unmarshal([]byte(cm.Data["values.yaml"]), &r.Values); err != nil {
		return nil, WithNext(fmt.Errorf("read the values of the installed release: %w", err),
			"correct values.yaml in ConfigMap %s/%s", cm.Namespace, cm.Name)
	}
	return r, nil
}

// object returns the record as the ConfigMap to apply.
func (r *Record) object(namespace string) (*unstructured.Unstructured, error) {
	values, err := yaml.Marshal(r.Values)
	if err != nil {
		return nil, fmt.Errorf("encode values: %w", err)
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{
			"name": recordName, "namespace": namespace,
			"labels": map[string]any{"app.kubernetes.io/name": "tulle", "app.kubernetes.io/managed-by": "tulle"},
		},
		"data": map[string]any{
			"version": r.Version, "values.yaml": string(values), "objects": encodeRefs(r.Objects), "crds": encodeRefs(r.CRDs),
		},
	}}, nil
}
