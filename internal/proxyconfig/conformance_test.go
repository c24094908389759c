package proxyconfig_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestConformancePage: docs/conformance.md has a row for every rule, and knows every fixture and no other. The tests
// that it names exist, and it knows every case of access control on a cluster.
func TestConformancePage(t *testing.T) {
	raw, err := os.ReadFile("../../docs/conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(raw)
	rules := strings.FieldsSeq("A1 A2 A3 A4 A5 A6 A7 A8 A9 S1 S2 S3 S4 T1 T2 T3 T4 T5 T6 T7 M1")
	for rule := range rules {
		if !strings.Contains(page, "\n| "+rule+" ") {
			t.Errorf("there is no row for rule %s", rule)
		}
	}
	var fixtures []string
	for _, glob := range []string{"testdata/*.txtar", "../smi/testdata/*.txtar", "../smi/testdata/convert/*.txtar"} {
		files, err := filepath.Glob(glob)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", glob, err)
		}
		for _, f := range files {
			fixtures = append(fixtures, filepath.Base(f))
			if name := filepath.Base(f); !strings.Contains(page, "`"+name+"`") {
				t.Errorf("the page doesn't name the fixture %s", name)
			}
		}
	}
	live, err := filepath.Glob("../../integration/e2e/testdata/access/*.txtar")
	if err != nil || len(live) == 0 {
		t.Fatalf("the cases on a cluster: %v", err)
	}
	for _, f := range live {
		if name := "`access/" + filepath.Base(f) + "`"; !strings.Contains(page, name) {
			t.Errorf("the page doesn't name the case %s", name)
		}
	}
	if named := strings.Count(page, "`access/"); named != len(live) {
		t.Errorf("the page names %d cases on a cluster, there are %d", named, len(live))
	}
	tests := contents(t, "*_test.go", "../smi/*_test.go", "../topology/*_test.go", "../install/*_test.go", "../webhook/*_test.go")
	for _, named := range regexp.MustCompile("`(Test[A-Za-z]+)`").FindAllStringSubmatch(page, -1) {
		if !strings.Contains(tests, "\nfunc "+named[1]+"(") {
			t.Errorf("the page names the test %s, which does not exist", named[1])
		}
	}
	for _, named := range regexp.MustCompile("`([a-z0-9_]+\\.txtar)`").FindAllStringSubmatch(page, -1) {
		if !slices.Contains(fixtures, named[1]) {
			t.Errorf("the page names the fixture %s, which does not exist", named[1])
		}
	}
}

// contents reads all files that fit the globs.
func contents(t *testing.T, globs ...string) string {
	t.Helper()
	var all strings.Builder
	for _, glob := range globs {
		files, err := filepath.Glob(glob)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", glob, err)
		}
		for _, f := range files {
			raw, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			all.Write(raw)
		}
	}
	return all.String()
}
