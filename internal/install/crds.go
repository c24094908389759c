package install

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tulle-mesh/tulle/internal/smi"
)

// applyCRDs applies the SMI CRDs that don't exist or are ours, waits until they are served and returns them. Somebody
// else's are left alone: the mesh works with the versions that they serve. Where controllers convert, they go on: what
// they set up stays.
func (i *Installer) applyCRDs(ctx context.Context, crds []*unstructured.Unstructured, webhooks bool) ([]Ref, error) {
	var ours []Ref
	for _, crd := range crds {
		ref := refOf(crd)
		existing, err := i.Cluster.get(ctx, ref)
		if err != nil && !isNotFound(err) {
			return ours, Explain(fmt.Errorf("get %s: %w", ref, err))
		}
		if err == nil && existing.GetLabels()["app.kubernetes.io/name"] != "tulle" {
			i.say("%s exists and is not tulle's: left as it is, served versions: %s", ref, strings.Join(ServedVersions(existing), ", "))
			continue
		}
		if err == nil && webhooks && smi.ConvertedIn(existing.Object) == i.Namespace && crd.GetAnnotations()[smi.ConversionAnnotation] != "" {
			conversion, _, _ := unstructured.NestedMap(existing.Object, "spec", "conversion")
			crd = &unstructured.Unstructured{Object: smi.WithConversion(crd.Object, conversion)}
		}
		if err := i.Cluster.apply(ctx, crd); err != nil {
			return ours, err
		}
		ours = append(ours, ref)
	}
	for _, ref := range ours {
		err := i.wait(ctx, ref.String(), func(ctx context.Context) (string, error) {
			crd, err := i.Cluster.get(ctx, ref)
			if err != nil {
				return "", err
			}
			if !established(crd) {
				return "is not served yet", nil
			}
			return "", nil
		})
		if err != nil {
			return ours, err
		}
	}
	return ours, nil
}

// ServedVersions returns the versions that a CRD serves.
func ServedVersions(crd *unstructured.Unstructured) []string {
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	var out []string
	for _, v := range versions {
		m, _ := v.(map[string]any)
		if served, _ := m["served"].(bool); served {
			name, _ := m["name"].(string)
			out = append(out, name)
		}
	}
	return out
}

func established(crd *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(crd.Object, "status", "conditions")
	return slices.ContainsFunc(conditions, func(c any) bool {
		m, _ := c.(map[string]any)
		return m["type"] == "Established" && m["status"] == "True"
	})
}

// versions says which of our kinds are not served in all their versions yet.
func (i *Installer) versions(ctx context.Context) (string, error) {
	refs, err := i.ourCRDs(ctx)
	if err != nil {
		return "", err
	}
	for _, ref := range refs {
		crd, err := i.Cluster.get(ctx, ref)
		if err != nil {
			return "", err
		}
		if crd.GetAnnotations()[smi.ConversionAnnotation] == smi.ConversionByWebhook && smi.ConvertedIn(crd.Object) == "" {
			return "the leading controller has not set up the conversion of " + ref.Name + " yet", nil
		}
	}
	return "", nil
}
