package install

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tulle-mesh/tulle/internal/smi"
)

// definitions are the SMI CRDs in which the mesh is asked.
func (i *Installer) definitions(ctx context.Context) ([]*unstructured.Unstructured, error) {
	refs, err := i.ourCRDs(ctx)
	if err != nil {
		return nil, err
	}
	var out []*unstructured.Unstructured
	for _, ref := range refs {
		crd, err := i.Cluster.get(ctx, ref)
		if err != nil {
			return nil, Explain(fmt.Errorf("get %s: %w", ref, err))
		}
		if smi.ConvertedIn(crd.Object) == i.Namespace {
			out = append(out, crd)
		}
	}
	return out, nil
}

// releaseObjects makes SMI objects independent of the mesh while it still works: all are stored in the version that is
// served afterwards, and no other version is served for which the controllers would be asked. The controllers leave it so.
func (i *Installer) releaseObjects(ctx context.Context) error {
	crds, err := i.definitions(ctx)
	if err != nil {
		return err
	}
	for _, crd := range crds {
		if err := i.migrate(ctx, crd); err != nil {
			return WithNext(err, "nothing was removed; run the command again")
		}
		if err := i.setDefinition(ctx, crd, smi.ConversionNone); err != nil {
			return err
		}
	}
	if len(crds) > 0 {
		i.say("SMI objects no longer need the mesh: they are served in the version that is stored")
	}
	return nil
}

// invite has controllers that come later convert again.
func (i *Installer) invite(ctx context.Context) error {
	refs, err := i.ourCRDs(ctx)
	if err != nil {
		return err
	}
	for _, ref := range refs {
		crd, err := i.Cluster.get(ctx, ref)
		if err != nil {
			return Explain(fmt.Errorf("get %s: %w", ref, err))
		}
		if crd.GetAnnotations()[smi.ConversionAnnotation] == smi.ConversionNone {
			if err := i.setDefinition(ctx, crd, smi.ConversionByWebhook); err != nil {
				return err
			}
		}
	}
	return nil
}

func (i *Installer) setDefinition(ctx context.Context, crd *unstructured.Unstructured, annotation string) error {
	next := smi.WithoutConversion(crd.Object, annotation)
	if next == nil {
		return nil
	}
	// Somebody may have changed it meanwhile; what is set here is right all the same.
	unstructured.RemoveNestedField(next, "metadata", "resourceVersion")
	return i.Cluster.apply(ctx, &unstructured.Unstructured{Object: next})
}

// migrate writes those objects again that need another version than the one to be stored: because they are stored in it,
// or because it is noted who owns their fields in it, which a server-side apply would look at.
func (i *Installer) migrate(ctx context.Context, crd *unstructured.Unstructured) error {
	group, _, _ := unstructured.NestedString(crd.Object, "spec", "group")
	plural, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "plural")
	stored, _, _ := unstructured.NestedStringSlice(crd.Object, "status", "storedVersions")
	storage := schema.GroupVersion{Group: group, Version: storageVersion(crd)}
	all := slices.ContainsFunc(stored, func(v string) bool { return v != storage.Version })
	client := i.Cluster.Dynamic.Resource(storage.WithResource(plural))
	list, err := client.List(ctx, metav1.ListOptions{})
	if err != nil {
		return Explain(fmt.Errorf("list %s: %w", plural, err))
	}
	written, noted := 0, all
	for n := range list.Items {
		o := &list.Items[n]
		fields := slices.DeleteFunc(o.GetManagedFields(), func(f metav1.ManagedFieldsEntry) bool { return f.APIVersion != storage.String() })
		if !all && len(fields) == len(o.GetManagedFields()) {
			continue
		}
		if len(fields) == 0 {
			fields = []metav1.ManagedFieldsEntry{{}} // that is how all are removed
		}
		o.SetManagedFields(fields)
		_, err := client.Namespace(o.GetNamespace()).Update(ctx, o, metav1.UpdateOptions{FieldManager: fieldManager})
		if apierrors.IsInvalid(err) { // it is from before the schema; nobody but its owner can help it
			i.say("%s %s/%s stays as it is: %v", crd.GetName(), o.GetNamespace(), o.GetName(), err)
			noted = false
			continue
		}
		if err != nil && !isNotFound(err) {
			return Explain(fmt.Errorf("store %s %s/%s as %s: %w", plural, o.GetNamespace(), o.GetName(), storage.Version, err))
		}
		written++
	}
	if written > 0 {
		i.say("%d %s stored as %s", written, plural, storage.Version)
	}
	if !noted {
		return nil
	}
	crd = crd.DeepCopy()
	if err := unstructured.SetNestedStringSlice(crd.Object, []string{storage.Version}, "status", "storedVersions"); err != nil {
		return fmt.Errorf("note what is stored of %s: %w", plural, err)
	}
	definition := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	if _, err := i.Cluster.Dynamic.Resource(definition).UpdateStatus(ctx, crd, metav1.UpdateOptions{FieldManager: fieldManager}); err != nil {
		return Explain(fmt.Errorf("note what is stored of %s: %w", plural, err))
	}
	return nil
}

func storageVersion(crd *unstructured.Unstructured) string {
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	for _, v := range versions {
		m, _ := v.(map[string]any)
		if m["storage"] == true {
			name, _ := m["name"].(string)
			return name
		}
	}
	return ""
}
