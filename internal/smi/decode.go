package smi

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tulle-mesh/tulle/internal/problem"
)

// The API groups of SMI.
const (
	SplitGroup  = "split.smi-spec.io"
	SpecsGroup  = "specs.smi-spec.io"
	AccessGroup = "access.smi-spec.io"
)

// defaultNamespace is where an object without a namespace lives, as kubectl has it.
const defaultNamespace = "default"

// decoder turns the content of one object into one of this package's types. It returns nil if there are Problems.
type decoder func(d decoding) (any, []problem.Problem)

// decoding is one object on its way.
type decoding struct {
	Meta
	version string
	content map[string]any
}

// decoderOf names what decodes the kinds of a group, by "group/kind", and the newest version v1alphaN of it.
func decoderOf(group, kind string) (decoder, int) {
	switch group + "/" + kind {
	case SplitGroup + "/TrafficSplit":
		return decodeSplit, 4
	case SpecsGroup + "/HTTPRouteGroup":
		return decodeRouteGroup, 4
	case SpecsGroup + "/TCPRoute":
		return decodeTCPRoute, 4
	case SpecsGroup + "/UDPRoute":
		return decodeUDPRoute, 4
	case AccessGroup + "/TrafficTarget":
		return decodeTarget, 3
	}
	return nil, 0
}

// Decode decodes the content of one unstructured object by its apiVersion and kind. The result is a TrafficSplit,
// HTTPRouteGroup, TCPRoute, UDPRoute or TrafficTarget, or nil if there are Problems: then the object is set aside.
func Decode(content map[string]any) (any, []problem.Problem) {
	meta, why := decodeMeta(content)
	if why != "" {
		return nil, []problem.Problem{problem.Newf(meta.Ref, problem.InvalidObject, "%s; the object is ignored", why)}
	}
	group, version, _ := strings.Cut(meta.Ref.APIVersion, "/")
	decode, newest := decoderOf(group, meta.Ref.Kind)
	if decode == nil || !known(version, newest) {
		return nil, []problem.Problem{problem.Newf(meta.Ref, problem.UnknownKind,
			"%s of %s is not a kind that the mesh knows; the object is ignored",
			problem.Quote(meta.Ref.Kind), problem.Quote(meta.Ref.APIVersion))}
	}
	if kept(content, NewerAnnotation) != nil {
		// What only newer versions can say counts, wherever the object was written down.
		version = "v1alpha" + strconv.Itoa(newest)
		var err error
		if content, err = Convert(content, group+"/"+version); err != nil {
			return nil, []problem.Problem{problem.Newf(meta.Ref, problem.InvalidObject, "%v; the object is ignored", err)}
		}
	}
	return decode(decoding{Meta: meta, version: version, content: content})
}

// known says whether version is one of v1alpha1 to the newest.
func known(version string, newest int) bool {
	n, ok := strings.CutPrefix(version, "v1alpha")
	return ok && len(n) == 1 && n[0] >= '1' && int(n[0]-'0') <= newest
}

// DecodeAll decodes every object on its own.
func DecodeAll(contents []map[string]any) (Objects, []problem.Problem) {
	var o Objects
	var problems []problem.Problem
	for _, c := range contents {
		object, ps := Decode(c)
		o.Add(object)
		problems = append(problems, ps...)
	}
	o.Sort()
	slices.SortFunc(problems, problem.Problem.Compare)
	return o, problems
}

// Add takes in what Decode returned; nil is nothing.
func (o *Objects) Add(object any) {
	switch x := object.(type) {
	case TrafficSplit:
		o.TrafficSplits = append(o.TrafficSplits, x)
	case HTTPRouteGroup:
		o.HTTPRouteGroups = append(o.HTTPRouteGroups, x)
	case TCPRoute:
		o.TCPRoutes = append(o.TCPRoutes, x)
	case UDPRoute:
		o.UDPRoutes = append(o.UDPRoutes, x)
	case TrafficTarget:
		o.TrafficTargets = append(o.TrafficTargets, x)
	}
}

// Sort puts the lists in order, as Objects promises.
func (o *Objects) Sort() {
	slices.SortFunc(o.TrafficSplits, func(a, b TrafficSplit) int { return a.compare(b.Meta) })
	slices.SortFunc(o.HTTPRouteGroups, func(a, b HTTPRouteGroup) int { return a.compare(b.Meta) })
	slices.SortFunc(o.TCPRoutes, func(a, b TCPRoute) int { return a.compare(b.Meta) })
	slices.SortFunc(o.UDPRoutes, func(a, b UDPRoute) int { return a.compare(b.Meta) })
	slices.SortFunc(o.TrafficTargets, func(a, b TrafficTarget) int { return a.compare(b.Meta) })
}

func (m Meta) compare(o Meta) int {
	return cmp.Or(cmp.Compare(m.Ref.Namespace, o.Ref.Namespace), cmp.Compare(m.Ref.Name, o.Ref.Name))
}

// decodeMeta reads what names the object. The second result says what is wrong with it.
func decodeMeta(content map[string]any) (Meta, string) {
	metadata, _ := content["metadata"].(map[string]any)
	text := func(m map[string]any, key string) string { s, _ := m[key].(string); return s }
	m := Meta{Ref: problem.Ref{
		APIVersion: text(content, "apiVersion"),
		Kind:       text(content, "kind"),
		Namespace:  cmp.Or(text(metadata, "namespace"), defaultNamespace),
		Name:       text(metadata, "name"),
		UID:        text(metadata, "uid"),
	}}
	// An unreadable time is no time: it only decides which of two objects is older.
	m.Created, _ = time.Parse(time.RFC3339, text(metadata, "creationTimestamp"))
	m.Created = m.Created.UTC()
	if why := validation.IsDNS1123Subdomain(m.Ref.Name); why != nil {
		return m, "metadata.name " + problem.Quote(m.Ref.Name) + " is not the name of an object"
	}
	if why := validation.IsDNS1123Label(m.Ref.Namespace); why != nil {
		return m, "metadata.namespace " + problem.Quote(m.Ref.Namespace) + " is not the name of a namespace"
	}
	return m, ""
}

// invalid sets the object aside.
func (d decoding) invalid(reason problem.Reason, format string, args ...any) (any, []problem.Problem) {
	return nil, []problem.Problem{problem.Newf(d.Ref, reason, format+"; the object is ignored", args...)}
}

// body is the part of the object that holds its fields: spec, or the object itself in the versions that had no spec.
// A cluster that serves several versions without converting between them may show either shape under any version.
func (d decoding) body(flat bool, field string) map[string]any {
	spec, _ := d.content["spec"].(map[string]any)
	_, top := d.content[field]
	_, nested := spec[field]
	if top && (flat || !nested) {
		return d.content
	}
	return spec
}

// convert fills a type of the SMI SDK from the named fields of body. The error names the field.
func convert[T any](body map[string]any, fields ...string) (T, error) {
	var out T
	in := map[string]any{}
	for _, f := range fields {
		if body[f] == nil {
			continue
		}
		in[f] = body[f]
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(in, &out); err != nil {
			return out, fmt.Errorf("%s cannot be decoded: %w", f, err)
		}
	}
	return out, nil
}
