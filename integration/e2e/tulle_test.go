package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tulle-mesh/tulle/integration/images"
)

const meshNamespace = "tulle-system"

// release is tulle as built from one source tree.
type release struct {
	cli      string   // the program
	archives []string // its images
	tag      string
}

// builds keeps what was built for all places.
type builds struct {
	t        *testing.T // that of all places
	mu       sync.Mutex // held while something is built: it takes all CPUs anyway
	releases map[string]release
}

// build makes tulle from a source tree: this one, or another commit's to upgrade from.
func (e *env) build(t *testing.T, root string) release {
	t.Helper()
	e.builds.mu.Lock()
	defer e.builds.mu.Unlock()
	if r, ok := e.builds.releases[root]; ok {
		return r
	}
	ctx, cancel := context.WithTimeout(t.Context(), buildTimeout)
	defer cancel()
	dir := e.builds.t.TempDir()
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir, "./cmd/...")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v: %s", root, err, out)
	}
	r := release{cli: filepath.Join(dir, "tulle")}
	sum := sha256.New()
	for _, p := range programs() {
		b, err := os.ReadFile(filepath.Join(dir, p))
		if err != nil {
			t.Fatal(err)
		}
		sum.Write(b)
	}
	r.tagged(t, hex.EncodeToString(sum.Sum(nil)[:6]))
	e.builds.releases[root] = r
	return r
}

// tagged writes the release's images with another tag.
func (r *release) tagged(t *testing.T, tag string) {
	t.Helper()
	r.tag, r.archives = tag, nil
	dir := filepath.Dir(r.cli)
	for _, p := range programs() {
		archive := filepath.Join(dir, p+"-"+tag+".tar")
		if err := images.Write(archive, images.Image{
			Ref: imageName(p) + ":" + r.tag, Entrypoint: "/" + p, Files: map[string]string{"/" + p: filepath.Join(dir, p)},
		}); err != nil {
			t.Fatal(err)
		}
		r.archives = append(r.archives, archive)
	}
}

// programs are those that images are made of.
func programs() []string { return []string{"tulle-controller", "tulle-proxy"} }

func imageName(program string) string { return "example.com/" + program }

// values are those that make the chart use the release's images.
func (r release) values() []string {
	var args []string
	for _, p := range []string{"controller", "proxy"} {
		args = append(args, "--set", fmt.Sprintf("%s.image.repository=%s", p, imageName("tulle-"+p)), "--set-string", fmt.Sprintf("%s.image.tag=%s", p, r.tag))
	}
	return args
}

// tulle runs a release's program against the cluster.
func (e *env) tulle(t *testing.T, r release, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), installTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.cli, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+e.kubectl.Kubeconfig)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("tulle %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// install loads a release's images and installs it, into a namespace that enforces PodSecurity restricted.
func (e *env) install(t *testing.T, r release, args ...string) {
	t.Helper()
	for _, a := range r.archives {
		e.loadImage(t, a)
	}
	e.apply(t, "default", "{apiVersion: v1, kind: Namespace, metadata: {name: "+meshNamespace+", labels: {pod-security.kubernetes.io/enforce: restricted}}}")
	out, err := e.tulle(t, r, append(append([]string{"install"}, r.values()...), args...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(out)
}
