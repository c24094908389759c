// Package golden is for tests over fixtures: txtar archives under testdata that say what shall come of what. With -update
// they are written anew.
package golden

import (
	"flag"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "rewrite the expected parts of testdata")

// Each runs a test for every archive that a pattern of path/filepath finds. Its files whose names match one of the inputs
// (patterns, too) and its comment are given to run; what run returns must be the archive's other files.
func Each(t *testing.T, pattern string, inputs []string, run func(t *testing.T, in *txtar.Archive) []txtar.File) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			a.Files = slices.DeleteFunc(a.Files, func(f txtar.File) bool { return !matches(f.Name, inputs) })
			a.Files = append(a.Files, run(t, &txtar.Archive{Comment: a.Comment, Files: slices.Clone(a.Files)})...)
			Check(t, file, a)
		})
	}
}

func matches(name string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		is, err := path.Match(p, name)
		return is && err == nil
	})
}

// Check fails if the archive in a file is another one. With -update it becomes the file's content.
func Check(t *testing.T, file string, a *txtar.Archive) {
	t.Helper()
	got := txtar.Format(a)
	if *update && !t.Failed() {
		if err := os.WriteFile(file, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

// Section is the text of a file of an archive, or empty.
func Section(a *txtar.Archive, name string) string {
	for _, f := range a.Files {
		if f.Name == name {
			return string(f.Data)
		}
	}
	return ""
}
