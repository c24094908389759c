package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/integration/cluster"
)

// pinned is the version of a Go module that a folder under integration/ has.
func (e *env) pinned(t *testing.T, folder, path string) string {
	t.Helper()
	file := filepath.Join(e.root, "integration", folder, "go.mod")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`\b` + regexp.QuoteMeta(path) + ` (v[0-9.]+)\b`).FindSubmatch(text)
	if found == nil {
		t.Fatalf("%s has no version of %s", file, path)
	}
	return string(found[1])
}

// sources is where the files of such a module are.
func (e *env) sources(t *testing.T, folder, path string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), buildTimeout)
	defer cancel()
	out := e.output(ctx, t, filepath.Join("integration", folder), "go", "mod", "download", "-json", path)
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return module.Dir
}

// cached is a program of a module under integration/, built unless the cache has it.
func (e *env) cached(t *testing.T, name, command, folder, pkg string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), buildTimeout)
	defer cancel()
	e.output(ctx, t, "integration", "./cached.sh", name, command, "integration/"+folder, pkg)
	cache, err := cluster.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(cache, name, command)
}

// applyCRDs returns when they are served. They go with the test.
func (e *env) applyCRDs(t *testing.T, files ...string) {
	t.Helper()
	var args []string
	for _, f := range files {
		args = append(args, "-f", f)
	}
	e.run(t, append([]string{"apply", "--server-side"}, args...)...)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), execTimeout)
		defer cancel()
		if _, err := e.kubectl.Run(ctx, append([]string{"delete", "--wait=false"}, args...)...); err != nil {
			t.Error(err)
		}
	})
	e.eventually(t, "the kinds of "+filepath.Base(files[0]), func() error { // kubectl wait fails where there is no condition at all yet
		_, err := e.try(t, append([]string{"wait", "--for=condition=Established"}, args...)...)
		return err
	})
}

// startProgram starts one in the network of the control plane; it ends with the test.
func (e *env) startProgram(t *testing.T, name string, argv ...string) {
	t.Helper()
	if _, err := e.embedded.StartProgram(name, argv...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.embedded.StopProgram(name); err != nil {
			t.Error(err)
		}
	})
}

// output runs a command in a folder of the source tree.
func (e *env) output(ctx context.Context, t *testing.T, dir, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(ctx, name, args...)
	var errs bytes.Buffer
	cmd.Dir, cmd.Stderr = filepath.Join(e.root, dir), &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v: %s%s", name, strings.Join(args, " "), err, out, errs.Bytes())
	}
	return out
}
