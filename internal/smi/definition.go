package smi

import (
	"maps"
	"reflect"
)

// The annotation by which a definition of the mesh asks for conversion by the controllers. A definition of a version of
// the mesh that does not convert lacks it, and one that the mesh is being taken away from says no.
const (
	ConversionAnnotation = "tulle.dev/conversion"
	ConversionByWebhook  = "webhook"
	ConversionNone       = "none"
)

// ConvertedIn returns the namespace of the Service that converts the objects of a CustomResourceDefinition, "" if none
// does.
func ConvertedIn(crd map[string]any) string {
	conversion := child(crd, "spec", "conversion")
	if conversion["strategy"] != "Webhook" {
		return ""
	}
	namespace, _ := child(conversion, "webhook", "clientConfig", "service")["namespace"].(string)
	return namespace
}

// WithConversion returns a CustomResourceDefinition as it is to be applied for all its versions to be served, by means of
// the conversion; nil if it is so already.
func WithConversion(crd, conversion map[string]any) map[string]any {
	return definition(crd, conversion, func(map[string]any) bool { return true }, ConversionByWebhook)
}

// WithoutConversion returns a CustomResourceDefinition as it is to be applied for no conversion to be needed any more: it
// serves the version that is stored, and those that mean the same in the same words; nil if it is so already. The
// annotation says whether controllers are to convert again.
func WithoutConversion(crd map[string]any, annotation string) map[string]any {
	var stored any
	for _, v := range versionsOf(crd) {
		if v["storage"] == true {
			stored = v["schema"]
		}
	}
	same := func(v map[string]any) bool {
		return v["storage"] == true || v["served"] == true && reflect.DeepEqual(v["schema"], stored)
	}
	return definition(crd, map[string]any{"strategy": "None"}, same, annotation)
}

func definition(crd, conversion map[string]any, served func(version map[string]any) bool, annotation string) map[string]any {
	metadata, spec := child(crd, "metadata"), maps.Clone(child(crd, "spec"))
	annotations, _ := metadata["annotations"].(map[string]any)
	same := reflect.DeepEqual(spec["conversion"], conversion) && annotations[ConversionAnnotation] == annotation
	spec["conversion"] = conversion
	var versions []any
	for _, v := range versionsOf(crd) {
		on := served(v)
		same = same && v["served"] == on
		v = maps.Clone(v)
		v["served"] = on
		versions = append(versions, v)
	}
	spec["versions"] = versions
	if same {
		return nil
	}
	applied := map[string]any{"annotations": map[string]any{ConversionAnnotation: annotation}}
	for _, field := range []string{"name", "resourceVersion", "labels"} {
		if metadata[field] != nil {
			applied[field] = metadata[field]
		}
	}
	return map[string]any{"apiVersion": crd["apiVersion"], "kind": crd["kind"], "metadata": applied, "spec": spec}
}

func versionsOf(crd map[string]any) []map[string]any {
	list, _ := child(crd, "spec")["versions"].([]any)
	var out []map[string]any
	for _, e := range list {
		if v, ok := e.(map[string]any); ok {
			out = append(out, v)
		}
	}
	return out
}

func child(m map[string]any, path ...string) map[string]any {
	for _, p := range path {
		m, _ = m[p].(map[string]any)
	}
	return m
}
