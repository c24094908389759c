package corefile

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// ownedAnnotation says on a ConfigMap of kube-dns which stub domains are the mesh's: JSON has no comments.
	ownedAnnotation = "tulle.dev/stub-domains"
	// CreatedAnnotation is on a ConfigMap that did not exist before the mesh; its value is the mesh's namespace.
	CreatedAnnotation = "tulle.dev/created-by"
)

// owned is the value of ownedAnnotation.
type owned struct {
	Mesh  string   `json:"mesh"`
	Zones []string `json:"zones"`
	Was   string   `json:"was,omitempty"` // "absent" or "empty" if there was no JSON before
}

// Patch returns the ConfigMap with the block in it; cm is not changed, and may be nil if it does not exist. main is the
// Corefile's own ConfigMap (for Custom; else ignored).
func (t Target) Patch(cm, main *corev1.ConfigMap, b Block) (*corev1.ConfigMap, error) {
	if cm == nil {
		cm = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
			Namespace: t.Namespace, Name: t.Name,
			Labels:      map[string]string{"app.kubernetes.io/managed-by": "tulle-controller"},
			Annotations: map[string]string{CreatedAnnotation: b.Mesh},
		}}
	}
	out := cm.DeepCopy()
	if out.Data == nil {
		out.Data = map[string]string{}
	}
	if t.Kind == KubeDNS {
		return out, b.patchKubeDNS(out, t.Key)
	}
	if t.Kind == Custom {
		if main == nil {
			return nil, &UnlistedError{Place: t.Main}
		}
		if err := b.checkBeside(t, cm, main.Data[t.Main.Key]); err != nil {
			return nil, err
		}
		b.Listeners, _ = Listeners(main.Data[t.Main.Key])
	}
	text, err := b.Patch(out.Data[t.Key])
	if err != nil {
		return nil, err
	}
	out.Data[t.Key] = text
	return out, nil
}

// checkBeside looks for the zones in the Corefile and in the other files that it imports.
func (b Block) checkBeside(t Target, cm *corev1.ConfigMap, main string) error {
	if err := Taken(main, b.Mesh, b.Zones); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(cm.Data)) {
		err := error(nil)
		switch {
		case key == t.Key:
		case strings.HasSuffix(key, ".override"):
			err = TakenInside(cm.Data[key], b.Zones)
		default:
			err = Taken(cm.Data[key], b.Mesh, b.Zones)
		}
		if err != nil {
			return fmt.Errorf("key %s of ConfigMap %s: %w", key, t.Place, err)
		}
	}
	return nil
}

// Unpatch returns the ConfigMap without the mesh's block, cm itself if it has none, or nil if the ConfigMap is to be
// deleted, because the mesh had made it and nothing else is in it.
func (t Target) Unpatch(cm *corev1.ConfigMap, mesh string) (*corev1.ConfigMap, error) {
	if t.Kind == KubeDNS {
		return unpatchKubeDNS(cm, t.Key, mesh)
	}
	text, ok := cm.Data[t.Key]
	if !ok || !Has(text, mesh) {
		return cm, nil
	}
	rest, err := Unpatch(text, mesh)
	if err != nil {
		return nil, err
	}
	out := cm.DeepCopy()
	out.Data[t.Key] = rest
	if t.Kind == Custom && rest == "" {
		delete(out.Data, t.Key)
		if len(out.Data) == 0 && len(out.BinaryData) == 0 && out.Annotations[CreatedAnnotation] == mesh {
			return nil, nil
		}
	}
	return out, nil
}

func (b Block) patchKubeDNS(cm *corev1.ConfigMap, key string) error {
	text, has := cm.Data[key]
	mine, err := ownedOf(cm)
	if err != nil {
		return err
	}
	switch {
	case mine == nil && !has:
		mine = &owned{Mesh: b.Mesh, Was: "absent"}
	case mine == nil && strings.TrimSpace(text) == "":
		mine = &owned{Mesh: b.Mesh, Was: "empty"}
	case mine == nil:
		mine = &owned{Mesh: b.Mesh}
	case mine.Mesh != b.Mesh:
		return &OtherMeshError{Namespace: mine.Mesh}
	}
	if text, err = b.patchStubDomains(text, mine.Zones); err != nil {
		return err
	}
	mine.Zones = b.Zones
	note, err := json.Marshal(mine)
	if err != nil {
		return fmt.Errorf("encode %s: %w", ownedAnnotation, err)
	}
	if cm.Annotations == nil {
		cm.Annotations = map[string]string{}
	}
	cm.Annotations[ownedAnnotation], cm.Data[key] = string(note), text
	return nil
}

func unpatchKubeDNS(cm *corev1.ConfigMap, key, mesh string) (*corev1.ConfigMap, error) {
	mine, err := ownedOf(cm)
	if err != nil || mine == nil || mine.Mesh != mesh {
		return cm, err
	}
	out := cm.DeepCopy()
	delete(out.Annotations, ownedAnnotation)
	if strings.TrimSpace(cm.Data[key]) != "" {
		text, err := unpatchStubDomains(cm.Data[key], mine.Zones)
		if err != nil {
			return nil, err
		}
		out.Data[key] = text
		if list, _, _ := members(text); len(list) == 0 && mine.Was != "" {
			out.Data[key] = ""
		}
	}
	if out.Data[key] == "" && mine.Was == "absent" {
		delete(out.Data, key)
	}
	if len(out.Data) == 0 && out.Annotations[CreatedAnnotation] == mesh {
		return nil, nil
	}
	return out, nil
}

func ownedOf(cm *corev1.ConfigMap) (*owned, error) {
	note, ok := cm.Annotations[ownedAnnotation]
	if !ok {
		return nil, nil
	}
	var o owned
	if err := json.Unmarshal([]byte(note), &o); err != nil {
		return nil, fmt.Errorf("annotation %s: %w", ownedAnnotation, err)
	}
	return &o, nil
}
