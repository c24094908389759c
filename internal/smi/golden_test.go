package smi_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/smi"
)

var update = flag.Bool("update", false, "rewrite the expected parts of testdata")

// TestGolden decodes each fixture's objects, also in the reverse order.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil || len(a.Files) == 0 || a.Files[0].Name != "in.yaml" {
				t.Fatalf("not a fixture that begins with in.yaml: %v", err)
			}
			contents := documents(t, string(a.Files[0].Data))
			got := decodeAll(t, contents)
			if *update {
				a.Files = append(a.Files[:1], got...)
				if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(text(a.Files[1:]), text(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			slices.Reverse(contents)
			if diff := cmp.Diff(text(got), text(decodeAll(t, contents))); diff != "" {
				t.Errorf("another order of the objects changes the result (-first +reversed):\n%s", diff)
			}
		})
	}
}

func text(files []txtar.File) string { return string(txtar.Format(&txtar.Archive{Files: files})) }

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
