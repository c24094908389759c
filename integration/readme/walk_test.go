package readme

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/integration/cluster"
	"github.com/tulle-mesh/tulle/integration/shop"
)

// What a reader does on a cluster, from top to bottom: commands are executed as they stand, objects applied, and after
// each part the mesh does what the text says. Reading aloud to nodes how to get the images is the archive's part here.
func TestOnACluster(t *testing.T) {
	if os.Getenv("TULLE_E2E") == "" {
		t.Skip("this needs a cluster: make e2e")
	}
	if os.Getenv("KUBECONFIG") != "" {
		t.Skip("this needs the embedded cluster: unset KUBECONFIG")
	}
	w := startWalk(t)
	elsewhere := []string{"make demo", "make test"} // TestDemo, TestMakeTest
	for _, b := range w.readme.blocks {
		switch b.language {
		case "sh":
			for line := range strings.Lines(b.text) {
				if command := strings.TrimSpace(line); !slices.Contains(elsewhere, command) {
					w.execute(t, command)
				}
			}
		case "yaml":
			if _, err := w.cluster.Kubectl.Apply(t.Context(), b.text, "apply", "-f", "-"); err != nil {
				t.Fatal(err)
			}
			w.answers(t, b.text)
		}
	}
	if out, err := w.call(t, "get", "http://web.shop.mesh/"); err != nil || strings.Contains(out, `"ok":1`) {
		t.Errorf("a mesh name still answers after all was taken away: %s, %v", out, err)
	}
	if out, err := w.call(t, "get", "http://web.shop/"); err != nil || !strings.Contains(out, `"ok":1`) {
		t.Errorf("a plain name does not answer: %s, %v", out, err)
	}
}

type walk struct {
	readme  readme
	cluster *cluster.Cluster
}

func startWalk(t *testing.T) walk {
	t.Helper()
	w := walk{readme: read(t)}
	c, err := cluster.Start(t.Context(), cluster.Options{Root: w.readme.root, LogDir: t.ArtifactDir(), Log: func(s string) { t.Log(s) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	w.cluster = c
	if err := c.WaitDNS(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := shop.Deploy(t.Context(), c.Kubectl, w.readme.root); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w walk) execute(t *testing.T, command string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	began := time.Now()
	out, err := w.readme.run(ctx, command, "KUBECONFIG="+w.cluster.Kubeconfig, "PATH="+w.cluster.BinDir()+":"+os.Getenv("PATH"))
	t.Logf("$ %s (%s)\n%s", command, time.Since(began).Round(time.Second), out)
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	if strings.Contains(command, "images") {
		if err := w.cluster.LoadImage(ctx, filepath.Join(w.readme.root, "dist", "images", "tulle-images.tar")); err != nil {
			t.Fatal(err)
		}
	}
}

// call runs the test tool in the client's pod.
func (w walk) call(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return w.cluster.Kubectl.Run(t.Context(), append([]string{"-n", shop.Namespace, "exec", "deploy/client", "--", "testtool"}, args...)...)
}

// answers waits until the mesh does what the objects ask for.
func (w walk) answers(t *testing.T, objects string) {
	t.Helper()
	args, want := []string{"get", "-n", "100"}, `"byVersion":{"v1":90,"v2":10}`
	if strings.Contains(objects, "x-beta") {
		args, want = append(args, "-H", "x-beta: yes"), `"byVersion":{"v2":100}`
	}
	deadline := time.After(time.Minute)
	poll := time.NewTicker(100 * time.Millisecond)
	defer poll.Stop()
	for {
		out, err := w.call(t, append(args, "http://web.shop.mesh/")...)
		if err == nil && strings.Contains(out, want) {
			return
		}
		select {
		case <-poll.C:
		case <-deadline:
			t.Fatalf("calls after applying\n%s\nwent to %s, %v; want %s", objects, out, err, want)
		}
	}
}
