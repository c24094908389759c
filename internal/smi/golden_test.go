package smi_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/golden"
	"github.com/tulle-mesh/tulle/internal/smi"
)

// TestGolden decodes each fixture's objects, also in the reverse order.
func TestGolden(t *testing.T) {
	golden.Each(t, "testdata/*.txtar", []string{"in.yaml"}, func(t *testing.T, in *txtar.Archive) []txtar.File {
		contents := documents(t, golden.Section(in, "in.yaml"))
		got := decodeAll(t, contents)
		slices.Reverse(contents)
		if diff := cmp.Diff(got, decodeAll(t, contents)); diff != "" {
			t.Errorf("another order of the objects changes the result (-first +reversed):\n%s", diff)
		}
		return got
	})
}

func documents(t *testing.T, text string) []map[string]any {
	t.Helper()
	var out []map[string]any
	for doc := range strings.SplitSeq(text, "---\n") {
		var content map[string]any
		if err := yaml.Unmarshal([]byte(doc), &content); err != nil {
			t.Fatalf("%v\n%s", err, doc)
		}
		out = append(out, content)
	}
	return out
}

// decodeAll writes down what became of the objects.
func decodeAll(t *testing.T, contents []map[string]any) []txtar.File {
	t.Helper()
	objects, problems := smi.DecodeAll(contents)
	out, err := yaml.Marshal(objects)
	if err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	for _, p := range problems {
		fmt.Fprintf(&lines, "%s %s/%s %s: %s\n", p.Object.Kind, p.Object.Namespace, p.Object.Name, p.Reason, p.Message)
	}
	return []txtar.File{{Name: "problems", Data: []byte(lines.String())}, {Name: "out.yaml", Data: out}}
}
