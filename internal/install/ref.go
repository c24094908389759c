package install

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Ref names an object of the cluster.
type Ref struct {
	APIVersion string
	Kind       string
	Namespace  string
	Name       string
}

func refOf(o *unstructured.Unstructured) Ref {
	return Ref{o.GetAPIVersion(), o.GetKind(), o.GetNamespace(), o.GetName()}
}

func (r Ref) gvk() schema.GroupVersionKind { return schema.FromAPIVersionAndKind(r.APIVersion, r.Kind) }

func (r Ref) String() string {
	if r.Namespace == "" {
		return r.Kind + " " + r.Name
	}
	return r.Kind + " " + r.Namespace + "/" + r.Name
}

// same is true if both name one object, whatever the version.
func (r Ref) same(o Ref) bool {
	return r.gvk().GroupKind() == o.gvk().GroupKind() && r.Namespace == o.Namespace && r.Name == o.Name
}

func compareRefs(a, b Ref) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.APIVersion, b.APIVersion))
}

// encodeRefs writes one object a line: apiVersion, kind, namespace ("-" if it has none), name.
func encodeRefs(refs []Ref) string {
	refs = slices.Clone(refs)
	slices.SortFunc(refs, compareRefs)
	var b strings.Builder
	for _, r := range slices.Compact(refs) {
		fmt.Fprintln(&b, r.APIVersion, r.Kind, cmp.Or(r.Namespace, "-"), r.Name)
	}
	return b.String()
}

// decodeRefs reads what encodeRefs wrote; lines that it doesn't understand are left out.
func decodeRefs(s string) []Ref {
	var out []Ref
	for line := range strings.Lines(s) {
		if f := strings.Fields(line); len(f) == 4 {
			out = append(out, Ref{f[0], f[1], strings.TrimPrefix(f[2], "-"), f[3]})
		}
	}
	return out
}

// without returns the refs of a that b doesn't name.
func without(a, b []Ref) []Ref {
	return slices.DeleteFunc(slices.Clone(a), func(r Ref) bool { return slices.ContainsFunc(b, r.same) })
}

// isNotFound is true if the object or its whole kind is unknown to the cluster.
func isNotFound(err error) bool { return apierrors.IsNotFound(err) || meta.IsNoMatchError(err) }
