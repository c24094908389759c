package observed_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/tulle-mesh/tulle/internal/golden"
	"github.com/tulle-mesh/tulle/internal/observed"
)

// TestGolden: each fixture has reports of proxies (*.json) and what is proposed (out.yaml). The order of the reports does
// not matter, and what is proposed is free of problems.
func TestGolden(t *testing.T) {
	golden.Each(t, "testdata/*.txtar", []string{"*.json"}, func(t *testing.T, in *txtar.Archive) []txtar.File {
		reports := reportsOf(t, in)
		out := observed.Generate(observed.Merge(reports))
		slices.Reverse(reports)
		if diff := cmp.Diff(string(out), string(observed.Generate(observed.Merge(reports)))); diff != "" {
			t.Errorf("another order of the reports changes the result (-first +reversed):\n%s", diff)
		}
		newJudge(t, out, observed.Merge(reports))
		return []txtar.File{{Name: "out.yaml", Data: out}}
	})
}

func reportsOf(t *testing.T, archive *txtar.Archive) []observed.Report {
	t.Helper()
	var out []observed.Report
	for _, f := range archive.Files {
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
