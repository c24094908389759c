package files

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/smi"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// readDir decodes all files of dir. Only a folder that cannot be listed is an error.
func readDir(dir string) (topology.Resources, error) {
	found, err := yamlFiles(dir)
	if err != nil {
		// The path is said already.
		if pathErr := (*fs.PathError)(nil); errors.As(err, &pathErr) && pathErr.Path == dir {
			err = pathErr.Err
		}
		return topology.Resources{}, fmt.Errorf("read the folder %s: %w", dir, err)
	}
	d := decoder{seen: map[problem.Ref]string{}}
	for _, path := range slices.Sorted(maps.Keys(found.unread)) {
		d.bad(fileRef(relative(dir, path), 0), problem.UnreadableFile, found.unread[path].Error())
	}
	for _, path := range found.files {
		content, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist): // removed while we looked
		case err != nil:
			d.bad(fileRef(relative(dir, path), 0), problem.UnreadableFile, err.Error())
		default:
			d.file(relative(dir, path), content)
		}
	}
	return d.finish(), nil
}

// relative is what a Problem calls a file: as the user knows it.
func relative(dir, path string) string {
	if rel, err := filepath.Rel(dir, path); err == nil {
		return rel
	}
	return path
}

// decoder collects the objects of many files.
type decoder struct {
	out  topology.Resources
	smi  []map[string]any
	seen map[problem.Ref]string // where an object was seen first; APIVersion is the group, as all versions are one object
}

func fileRef(file string, doc int) problem.Ref {
	name := file
	if doc > 0 {
		name += "#" + strconv.Itoa(doc)
	}
	return problem.Ref{Kind: "File", Name: name}
}

func (d *decoder) bad(ref problem.Ref, reason problem.Reason, message string) {
	d.out.Undecodable = append(d.out.Undecodable, problem.Newf(ref, reason, "%s", message))
}

// file decodes the documents of one file, counted from 1.
func (d *decoder) file(name string, content []byte) {
	docs := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
	for n := 1; ; n++ {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return
		}
		ref := fileRef(name, n)
		if err != nil {
			d.bad(ref, problem.UnreadableFile, err.Error())
			return
		}
		var obj map[string]any
		if err := yaml.Unmarshal(doc, &obj); err != nil {
			d.bad(ref, problem.UnreadableFile, "not YAML: "+err.Error())
			continue
		}
		if obj != nil {
			d.object(ref, obj)
		}
	}
}

// object sorts one object in; at is where it stands.
func (d *decoder) object(at problem.Ref, obj map[string]any) {
	apiVersion, _ := obj["apiVersion"].(string)
	kind, _ := obj["kind"].(string)
	if items, ok := obj["items"].([]any); ok && strings.HasSuffix(kind, "List") {
		for _, i := range items {
			if o, ok := i.(map[string]any); ok {
				d.object(at, o)
			}
		}
		return
	}
	if apiVersion == "" || kind == "" {
		d.bad(at, problem.UnknownKind, "an object needs apiVersion and kind")
		return
	}
	meta, _ := obj["metadata"].(map[string]any)
	name, _ := meta["name"].(string)
	if name == "" {
		d.bad(at, problem.InvalidObject, kind+" without metadata.name")
		return
	}
	if meta["namespace"] == nil && kind != "Namespace" && kind != "Node" {
		meta["namespace"] = metav1.NamespaceDefault
	}
	namespace, _ := meta["namespace"].(string)
	ref := problem.Ref{APIVersion: apiVersion, Kind: kind, Namespace: namespace, Name: name}
	id := ref
	id.APIVersion, _, _ = strings.Cut(apiVersion, "/")
	if first, twice := d.seen[id]; twice {
		d.bad(ref, problem.DuplicateObject, fmt.Sprintf("in %s, but %s has it already: that one is used", at.Name, first))
		return
	}
	d.seen[id] = at.Name
	if strings.HasSuffix(id.APIVersion, ".smi-spec.io") {
		d.smi = append(d.smi, obj)
		return
	}
	d.core(at, ref, obj)
}

func (d *decoder) core(at, ref problem.Ref, obj map[string]any) {
	var err error
	switch ref.APIVersion + " " + ref.Kind {
	case "v1 Service":
		d.out.Services, err = decodeInto(d.out.Services, obj)
	case "v1 Pod":
		d.out.Pods, err = decodeInto(d.out.Pods, obj)
	case "v1 Node":
		d.out.Nodes, err = decodeInto(d.out.Nodes, obj)
	case "v1 Namespace":
		d.out.Namespaces, err = decodeInto(d.out.Namespaces, obj)
	case "v1 ServiceAccount":
		d.out.ServiceAccounts, err = decodeInto(d.out.ServiceAccounts, obj)
	case "discovery.k8s.io/v1 EndpointSlice":
		d.out.EndpointSlices, err = decodeInto(d.out.EndpointSlices, obj)
	default:
		d.bad(ref, problem.UnknownKind, fmt.Sprintf("%s: standalone mode reads Services, EndpointSlices, Pods, Nodes, Namespaces, ServiceAccounts and SMI objects", at.Name))
		return
	}
	if err != nil {
		d.bad(ref, problem.InvalidObject, at.Name+": "+err.Error())
	}
}

func decodeInto[T any](list []*T, obj map[string]any) ([]*T, error) {
	v := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(obj, v, true); err != nil {
		return list, err
	}
	return append(list, v), nil
}

// finish fills in what an API server and its controllers would.
func (d *decoder) finish() topology.Resources {
	var problems []problem.Problem
	d.out.SMI, problems = smi.DecodeAll(d.smi)
	d.out.Undecodable = append(d.out.Undecodable, problems...)
	for _, s := range d.out.Services {
		defaultService(s)
	}
	d.out.EndpointSlices = append(d.out.EndpointSlices, slicesOfPods(d.out)...)
	for _, p := range d.out.Pods {
		defaultPod(p)
	}
	d.out.Namespaces = append(d.out.Namespaces, missingNamespaces(d.out)...)
	byName(d.out.Services)
	byName(d.out.EndpointSlices)
	byName(d.out.Pods)
	byName(d.out.Nodes)
	byName(d.out.Namespaces)
	byName(d.out.ServiceAccounts)
	return d.out
}

func byName[T metav1.Object](list []T) {
	slices.SortFunc(list, func(a, b T) int {
		return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
	})
}

func missingNamespaces(r topology.Resources) []*corev1.Namespace {
	have := map[string]bool{}
	for _, n := range r.Namespaces {
		have[n.Name] = true
	}
	var missing []*corev1.Namespace
	for _, s := range r.Services {
		if !have[s.Namespace] {
			have[s.Namespace] = true
			missing = append(missing, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.Namespace}})
		}
	}
	return missing
}
