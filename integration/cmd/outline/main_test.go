package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const suites = `package suites

import "testing"

func TestGood(t *testing.T) {
	t.Run("a", func(t *testing.T) { t.Log("fine") })
}

func TestBad(t *testing.T) {
	t.Run("good", func(t *testing.T) { t.Log("fine, too") })
	t.Run("bad", func(t *testing.T) {
		t.Log("first")
		t.Run("worse", func(t *testing.T) { t.Error("not\nat all") })
		t.Run("skipped", func(t *testing.T) { t.Skip("no need") })
	})
	t.Run("good again", func(t *testing.T) {})
}
`

const want = `a warning
=== RUN   TestGood
=== RUN   TestGood/a
    suites_test.go:6: fine
--- PASS: TestGood/a T
--- PASS: TestGood T
=== RUN   TestBad
=== RUN   TestBad/good
    suites_test.go:10: fine, too
--- PASS: TestBad/good T
=== RUN   TestBad/bad
    suites_test.go:12: first
=== RUN   TestBad/bad/worse
    suites_test.go:13: not
        at all
--- FAIL: TestBad/bad/worse T
=== RUN   TestBad/bad/skipped
    suites_test.go:14: no need
--- SKIP: TestBad/bad/skipped T
--- FAIL: TestBad/bad T
    --- FAIL: TestBad/bad/worse T
    suites_test.go:13: not
        at all
=== RUN   TestBad/good_again
--- PASS: TestBad/good_again T
--- FAIL: TestBad T
    --- FAIL: TestBad/bad/worse T
    suites_test.go:13: not
        at all
FAIL
FAIL	suites	T
`

// The real go test runs a package with failures in it.
func TestOutline(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module suites\n", "suites_test.go": suites} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-json", "./...")
	cmd.Dir = dir
	events, err := cmd.Output()
	if err == nil {
		t.Fatal("the package with the failing test passed")
	}
	var b strings.Builder
	if err := outline(strings.NewReader("a warning\n"+string(events)), &b); err != nil {
		t.Fatal(err)
	}
	got := regexp.MustCompile(`[(]?[0-9.]+s[)]?`).ReplaceAllString(b.String(), "T")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
