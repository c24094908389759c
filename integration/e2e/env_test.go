package e2e

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/integration/cluster"
	"github.com/tulle-mesh/tulle/integration/images"
)

const (
	gateEnv = "TULLE_E2E"
	loadEnv = "TULLE_E2E_LOAD_IMAGE"
	fromEnv = "TULLE_E2E_UPGRADE_FROM"
)

func givenKubeconfig() string { return os.Getenv("KUBECONFIG") }

// env is a cluster with a client pod on every node. Suites share it and run one after the other.
type env struct {
	place    place
	root     string           // the source tree
	embedded *cluster.Cluster // nil on a given cluster
	kubectl  cluster.Kubectl
	clients  []client   // one per node
	release  release    // what the suite "install" installed
	before   []string   // the cluster's objects before that
	lookups  []*load    // of the cluster's names, from before install to after uninstall
	t        *testing.T // of the place: what lasts longer than a suite
	builds   *builds
}

// start boots the embedded cluster, or takes the given one, and deploys the clients. All ends with the test.
func start(t *testing.T, p place) *env {
	t.Helper()
	root, err := cluster.FindRoot("")
	if err != nil {
		t.Fatal(err)
	}
	e := &env{place: p, root: root}
	if p.name == given {
		e.useGiven(t)
	} else {
		e.boot(t)
	}
	t.Cleanup(func() {
		if t.Failed() {
			e.describe(t)
		}
	})
	e.deployClients(t)
	return e
}

func (e *env) boot(t *testing.T) {
	t.Helper()
	o := e.place.options
	o.Root, o.LogDir, o.Log = e.root, t.ArtifactDir(), func(s string) { t.Log(s) }
	c, err := cluster.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	e.embedded, e.kubectl = c, c.Kubectl
}

func (e *env) useGiven(t *testing.T) {
	t.Helper()
	e.kubectl = cluster.Kubectl{Kubeconfig: givenKubeconfig()}
	ctx, cancel := context.WithTimeout(t.Context(), buildTimeout)
	defer cancel()
	archive, err := images.Testtool(ctx, e.root, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	e.loadImage(t, archive)
}

// loadImage makes an image known to every node.
func (e *env) loadImage(t *testing.T, archive string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), buildTimeout)
	defer cancel()
	if e.embedded != nil {
		if err := e.embedded.LoadImage(ctx, archive); err != nil {
			t.Fatal(err)
		}
		return
	}
	load := os.Getenv(loadEnv)
	if !strings.Contains(load, "{archive}") {
		t.Fatalf("with KUBECONFIG set, %s must be the command that loads an image archive, for example \"kind load image-archive {archive}\"", loadEnv)
	}
	cmd := exec.CommandContext(ctx, "sh", "-c", strings.ReplaceAll(load, "{archive}", "'"+archive+"'"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", load, err, out)
	}
}

// needEmbedded skips what can't be done to a given cluster: killing its parts and so on.
func (e *env) needEmbedded(t *testing.T) *cluster.Cluster {
	t.Helper()
	if e.embedded == nil {
		t.Skip("this needs the embedded cluster: unset KUBECONFIG")
	}
	return e.embedded
}

// needDualStack skips on a given cluster of one address family.
func (e *env) needDualStack(t *testing.T) {
	t.Helper()
	c := e.clients[0]
	if ips := e.run(t, "-n", c.namespace, "get", "pod", c.pod, "-o", "jsonpath={.status.podIPs[*].ip}"); len(strings.Fields(ips)) < 2 {
		t.Skip("this cluster is not dual-stack")
	}
}

// describe logs what one wants to know after a failure.
func (e *env) describe(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), execTimeout)
	defer cancel()
	for _, args := range [][]string{
		{"get", "pods", "-A", "-o", "wide"},
		{"get", "events", "-A", "--sort-by=.lastTimestamp"},
		{"-n", "kube-system", "logs", "-l", "k8s-app=kube-dns", "--prefix", "--tail=20"},
		{"-n", meshNamespace, "logs", "-l", "app.kubernetes.io/name=tulle", "--all-containers", "--prefix", "--tail=40"},
		{"-n", meshNamespace, "logs", "-l", "app.kubernetes.io/name=tulle", "--all-containers", "--prefix", "--tail=20", "--previous"},
	} {
		out, err := e.kubectl.Run(ctx, args...)
		t.Logf("kubectl %s: %s", strings.Join(args, " "), cmp.Or(last(out, 3000), fmt.Sprint(err)))
	}
	if e.embedded != nil {
		dir := e.embedded.Options().LogDir
		t.Logf("the logs of the cluster's components are in %s (kept with go test -artifacts)", dir)
		for _, n := range e.embedded.Nodes() {
			for _, component := range []string{"kubelet", "kube-proxy", "kube-router"} {
				if b, err := os.ReadFile(filepath.Join(dir, n+"-"+component+".log")); err == nil {
					t.Logf("%s of %s: %s", component, n, last(string(b), 1000))
				}
			}
		}
	}
}

func last(s string, n int) string { return s[max(0, len(s)-n):] }
