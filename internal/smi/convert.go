package smi

import (
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/problem"
)

// The annotations in which a conversion keeps what a version has no field for. Others than conversions do not write
// them; what else is in them gets lost.
const (
	// NewerAnnotation is on an object in an older version: what only newer versions can say.
	NewerAnnotation = "tulle.dev/smi-newer"
	// OlderAnnotation is on an object in a newer version: how an older version wrote what both can say.
	OlderAnnotation = "tulle.dev/smi-older"
)

// Convert returns the content of an unstructured object in another version of its kind: "split.smi-spec.io/v1alpha1",
// say. Nothing gets lost: to convert there and back again, by whatever versions, gives the same content. The result
// shares with content what is the same in both.
//
// What makes no sense is not judged, but passed on: an object that cannot be converted could not be read by anybody.
// The only object that is refused is one that was too large to be expressed in an older version and comes back from it.
func Convert(content map[string]any, apiVersion string) (map[string]any, error) {
	meta, _ := decodeMeta(content)
	group, from, _ := strings.Cut(meta.Ref.APIVersion, "/")
	_, newest := decoderOf(group, meta.Ref.Kind)
	toGroup, to, _ := strings.Cut(apiVersion, "/")
	if group != toGroup || !known(from, newest) || !known(to, newest) {
		return nil, fmt.Errorf("%s of %s cannot be converted to %s", problem.Quote(meta.Ref.Kind), problem.Quote(meta.Ref.APIVersion), problem.Quote(apiVersion))
	}
	if from == to {
		return content, nil
	}
	c := conversion{maps.Clone(content)}
	if n := numberOf(from); n < newest {
		if err := c.up(meta.Ref.Kind, n); err != nil {
			return nil, err
		}
	}
	if n := numberOf(to); n < newest {
		c.down(meta.Ref.Kind, n)
	}
	c.content["apiVersion"] = apiVersion
	return c.content, nil
}

func numberOf(version string) int {
	n, _ := strconv.Atoi(strings.TrimPrefix(version, "v1alpha")) // it is known
	return n
}

// conversion is an object on its way to another version. Only its top level is its own: what is below is cloned before
// it is changed.
type conversion struct{ content map[string]any }

// up brings the object from v1alphaN to the newest version.
func (c conversion) up(kind string, n int) error {
	kept := c.take(NewerAnnotation)
	if kept["incomplete"] != nil {
		return fmt.Errorf("in v1alpha%d this %s lacks what only newer versions can say, because it is too much for an annotation: change it in the newest version", n, kind)
	}
	switch kind {
	case "TrafficSplit":
		if n == 1 {
			c.weightsUp()
		}
		c.restore("spec", kept, "matches")
	case "HTTPRouteGroup":
		if n == 1 {
			c.headersUp(kept["headers"])
		}
		if n <= 2 {
			c.nest(map[string]string{"matches": "matches"})
		}
	case "TCPRoute":
		c.routeUp(kept["spec"])
	case "TrafficTarget":
		if n == 1 {
			c.nest(map[string]string{"destination": "destination", "sources": "sources", "specs": "rules"})
		}
	}
	return nil
}

// down brings the object from the newest version to v1alphaN.
func (c conversion) down(kind string, n int) {
	c.take(NewerAnnotation)
	kept := map[string]any{}
	switch kind {
	case "TrafficSplit":
		if n <= 2 {
			c.moveOut("spec", "matches", kept)
		}
		if n == 1 {
			c.weightsDown()
		}
	case "HTTPRouteGroup":
		if n <= 2 {
			c.flatten(map[string]string{"matches": "matches"})
		}
		if n == 1 {
			c.headersDown(kept)
		}
	case "TCPRoute":
		c.routeDown(n, kept)
	case "TrafficTarget":
		if n == 1 {
			c.flatten(map[string]string{"destination": "destination", "sources": "sources", "specs": "rules"})
		}
	}
	c.keep(NewerAnnotation, kept)
}

// own returns a map of the object as one that may be changed; nil if it is none.
func (c conversion) own(field string) map[string]any {
	m, ok := c.content[field].(map[string]any)
	if !ok {
		return nil
	}
	m = maps.Clone(m)
	c.content[field] = m
	return m
}

// nest puts fields of the object into its spec, under their newer names.
func (c conversion) nest(fields map[string]string) {
	spec := c.own("spec")
	if _, has := c.content["spec"]; spec == nil && has {
		return
	}
	if spec == nil {
		spec = map[string]any{}
		c.content["spec"] = spec
	}
	for old, now := range fields {
		if v, has := c.content[old]; has {
			delete(c.content, old)
			spec[now] = v
		}
	}
}

// flatten is the opposite of nest.
func (c conversion) flatten(fields map[string]string) {
	spec := c.own("spec")
	if spec == nil {
		return
	}
	for old, now := range fields {
		if v, has := spec[now]; has {
			delete(spec, now)
			c.content[old] = v
		}
	}
	if len(spec) == 0 {
		delete(c.content, "spec")
	}
}

// moveOut takes a field out of a map of the object.
func (c conversion) moveOut(of, field string, kept map[string]any) {
	m := c.own(of)
	if v, has := m[field]; has {
		delete(m, field)
		kept[field] = v
	}
}

// restore puts what was kept back into a map of the object, unless there is something new.
func (c conversion) restore(to string, kept map[string]any, field string) {
	v, has := kept[field]
	m := c.own(to)
	if _, taken := m[field]; has && m != nil && !taken {
		m[field] = v
	}
}

// routeDown: before v1alpha3 a TCPRoute has no spec, and in v1alpha3 an empty one.
func (c conversion) routeDown(n int, kept map[string]any) {
	spec, has := c.content["spec"]
	m, isMap := spec.(map[string]any)
	switch {
	case !has:
	case n <= 2:
		delete(c.content, "spec")
		kept["spec"] = spec
	case isMap && len(m) > 0:
		c.content["spec"] = map[string]any{}
		kept["spec"] = m
	}
}

func (c conversion) routeUp(kept any) {
	if m, isMap := c.content["spec"].(map[string]any); kept != nil && (c.content["spec"] == nil || isMap && len(m) == 0) {
		c.content["spec"] = kept
	}
}
