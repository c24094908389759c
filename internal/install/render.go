package install

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

const (
	// ReleaseName is the name under which Helm knows what is installed.
	ReleaseName = "tulle"
	// DefaultNamespace is where the mesh lives unless told otherwise.
	DefaultNamespace = "tulle-system"
	// DefaultKubeVersion is rendered for if no cluster is asked.
	DefaultKubeVersion = "1.34.0"

	// Annotations and label by which Helm recognizes what it may adopt.
	releaseNameAnnotation      = "meta.helm.sh/release-name"
	releaseNamespaceAnnotation = "meta.helm.sh/release-namespace"

	crdKind = "CustomResourceDefinition"
)

// Release says what to render.
type Release struct {
	Namespace   string // default DefaultNamespace
	Values      Values
	KubeVersion string // default DefaultKubeVersion
}

// Rendered is a release as objects, in the order in which they are to be applied.
type Rendered struct {
	CRDs    []*unstructured.Unstructured
	Objects []*unstructured.Unstructured // without the namespace itself
}

// Render renders the embedded chart. Equal releases give equal objects. The CRDs and the objects carry what Helm needs
// to adopt them.
func Render(r Release) (Rendered, error) {
	r.Namespace, r.KubeVersion = cmp.Or(r.Namespace, DefaultNamespace), cmp.Or(r.KubeVersion, DefaultKubeVersion)
	c, err := Chart()
	if err != nil {
		return Rendered{}, err
	}
	values, err := renderValues(c, r)
	if err != nil {
		return Rendered{}, err
	}
	files, err := engine.Render(c, values)
	if err != nil {
		return Rendered{}, WithNext(fmt.Errorf("render the chart: %w", err), "look at the values that the message names")
	}
	var out Rendered
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, "/NOTES.txt") {
			continue
		}
		objects, err := Decode([]byte(files[name]))
		if err != nil {
			return Rendered{}, fmt.Errorf("decode %s: %w", name, err)
		}
		out.Objects = append(out.Objects, objects...)
	}
	for _, o := range out.Objects {
		adoptable(o, r.Namespace)
	}
	for _, crd := range c.CRDObjects() {
		objects, err := Decode(crd.File.Data)
		if err != nil {
			return Rendered{}, fmt.Errorf("decode %s: %w", crd.Name, err)
		}
		out.CRDs = append(out.CRDs, objects...)
	}
	slices.SortStableFunc(out.Objects, func(a, b *unstructured.Unstructured) int {
		return cmp.Or(cmp.Compare(order(a.GetKind()), order(b.GetKind())),
			cmp.Compare(a.GetKind(), b.GetKind()), cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
	})
	return out, nil
}

// renderValues merges the user's values over the chart's and checks them against its schema.
func renderValues(c *chart.Chart, r Release) (chartutil.Values, error) {
	kube, err := chartutil.ParseKubeVersion(r.KubeVersion)
	if err != nil {
		return nil, WithNext(fmt.Errorf("parse the version of Kubernetes %q: %w", r.KubeVersion, err), "write it like 1.34.0")
	}
	if !chartutil.IsCompatibleRange(c.Metadata.KubeVersion, kube.Version) {
		return nil, WithNext(fmt.Errorf("kubernetes %s is too old: the mesh needs %s", kube.Version, c.Metadata.KubeVersion), "upgrade the cluster first")
	}
	caps := chartutil.DefaultCapabilities.Copy()
	caps.KubeVersion = *kube
	options := chartutil.ReleaseOptions{Name: ReleaseName, Namespace: r.Namespace, Revision: 1, IsInstall: true}
	values, err := chartutil.ToRenderValues(c, merge(nil, r.Values), options, caps)
	if err != nil {
		return nil, WithNext(errors.New(strings.TrimSpace(err.Error())), "correct these values; `tulle install --show-values` prints all there are")
	}
	return values, nil
}

// adoptable marks o like Helm marks what it installs.
func adoptable(o *unstructured.Unstructured, namespace string) {
	annotations := o.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[releaseNameAnnotation] = ReleaseName
	annotations[releaseNamespaceAnnotation] = namespace
	o.SetAnnotations(annotations)
}

// order is the place of a kind: what others need comes first.
func order(kind string) int {
	kinds := []string{
		"ResourceQuota", "NetworkPolicy", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding",
		"ConfigMap", "Service", "PodDisruptionBudget", "Deployment", "DaemonSet",
	}
	if i := slices.Index(kinds, kind); i >= 0 {
		return i
	}
	return len(kinds)
}

// Decode reads a stream of YAML documents; empty ones are left out.
func Decode(data []byte) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	for r := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data))); ; {
		doc, err := r.Read()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		data, err := yaml.YAMLToJSONStrict(doc)
		if err != nil {
			return nil, err
		}
		if string(data) == "null" {
			continue
		}
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(data); err != nil {
			return nil, err
		}
		out = append(out, object)
	}
}

// Encode writes objects as a stream of YAML documents with sorted keys.
func Encode(w io.Writer, objects ...*unstructured.Unstructured) error {
	for _, o := range objects {
		data, err := yaml.Marshal(o.Object)
		if err != nil {
			return fmt.Errorf("encode %s %s: %w", o.GetKind(), o.GetName(), err)
		}
		if _, err := fmt.Fprintf(w, "---\n%s", bytes.TrimLeft(data, "\n")); err != nil {
			return err
		}
	}
	return nil
}
