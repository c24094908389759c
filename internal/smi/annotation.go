package smi

import (
	"encoding/json"

	utiljson "k8s.io/apimachinery/pkg/util/json"
)

// maxAnnotations is what the annotations of an object may have together, in bytes (Kubernetes' limit).
const maxAnnotations = 256 << 10

// take removes an annotation and returns what was kept in it; nothing if it cannot be read.
func (c conversion) take(name string) map[string]any {
	kept := kept(c.content, name)
	metadata, _ := c.content["metadata"].(map[string]any)
	annotations, _ := metadata["annotations"].(map[string]any)
	if _, has := annotations[name]; !has {
		return kept
	}
	metadata = c.own("metadata")
	annotations = conversion{metadata}.own("annotations")
	delete(annotations, name)
	if len(annotations) == 0 {
		delete(metadata, "annotations")
	}
	return kept
}

// kept reads an annotation.
func kept(content map[string]any, name string) map[string]any {
	metadata, _ := content["metadata"].(map[string]any)
	annotations, _ := metadata["annotations"].(map[string]any)
	text, _ := annotations[name].(string)
	var out map[string]any
	if text == "" || utiljson.Unmarshal([]byte(text), &out) != nil {
		return nil
	}
	return out
}

// keep writes an annotation, unless there is nothing to write. What is too much for one is said to be missing.
func (c conversion) keep(name string, kept map[string]any) {
	if len(kept) == 0 {
		return
	}
	metadata := c.own("metadata")
	if metadata == nil {
		return // an object without a name is nobody's
	}
	annotations := conversion{metadata}.own("annotations")
	if annotations == nil {
		annotations = map[string]any{}
		metadata["annotations"] = annotations
	}
	text, err := json.Marshal(kept)
	if err != nil || tooLarge(annotations, len(name)+len(text)) {
		text = []byte(`{"incomplete":true}`)
	}
	annotations[name] = string(text)
}

func tooLarge(annotations map[string]any, size int) bool {
	for name, value := range annotations {
		text, _ := value.(string)
		size += len(name) + len(text)
	}
	return size > maxAnnotations
}
