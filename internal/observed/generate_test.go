package observed_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/tulle-mesh/tulle/internal/observed"
)

var update = flag.Bool("update", false, "rewrite the expected parts of testdata")

// TestGolden: each fixture has reports of proxies (*.json) and what is proposed (out.yaml). The order of the reports does
// not matter, and what is proposed is free of problems.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			reports := reportsOf(t, archive)
			out := observed.Generate(observed.Merge(reports))
			slices.Reverse(reports)
			if diff := cmp.Diff(string(out), string(observed.Generate(observed.Merge(reports)))); diff != "" {
				t.Errorf("another order of the reports changes the result (-first +reversed):\n%s", diff)
			}
			newJudge(t, out, observed.Merge(reports))
			if *update {
				archive.Files = slices.DeleteFunc(archive.Files, func(f txtar.File) bool { return f.Name == "out.yaml" })
				archive.Files = append(archive.Files, txtar.File{Name: "out.yaml", Data: out})
				if err := os.WriteFile(file, txtar.Format(archive), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			want := ""
			for _, f := range archive.Files {
				if f.Name == "out.yaml" {
					want = string(f.Data)
				}
			}
			if diff := cmp.Diff(want, string(out)); diff != "" {
				t.Errorf("out.yaml (-want +got):\n%s", diff)
			}
		})
	}
}

func reportsOf(t *testing.T, archive *txtar.Archive) []observed.Report {
	t.Helper()
	var out []observed.Report
	for _, f := range archive.Files {
		if !strings.HasSuffix(f.Name, ".json") {
			continue
		}
		var r observed.Report
		d := json.NewDecoder(bytes.NewReader(f.Data))
		d.DisallowUnknownFields()
		if err := d.Decode(&r); err != nil {
			t.Fatalf("%s: %v", f.Name, err)
		}
		if err := r.Validate(); err != nil {
			t.Fatalf("%s: %v", f.Name, err)
		}
		out = append(out, r)
	}
	return out
}
