// Command demo shows the mesh on a Kubernetes cluster that it starts on this machine: it needs Linux and root. The
// services and splits are those of `tulle demo`, the programs those of `make build`.
package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/term"

	"github.com/tulle-mesh/tulle/integration/cluster"
)

func main() {
	cluster.MaybeChild()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	d := demo{out: os.Stdout, stay: term.IsTerminal(int(os.Stdin.Fd()))}
	if err := d.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// demo walks through what the mesh does and fails if it doesn't.
type demo struct {
	out     io.Writer
	stay    bool   // until ^C, so that the user can play with it
	root    string // of the source tree
	cluster *cluster.Cluster
}

func (d *demo) run(ctx context.Context) (err error) {
	if d.root, err = cluster.FindRoot(""); err != nil {
		return err
	}
	images, err := d.saveImages(ctx)
	if err != nil {
		return err
	}
	defer os.Remove(images)
	d.say("starting a Kubernetes cluster of two nodes")
	d.cluster, err = cluster.Start(ctx, cluster.Options{Root: d.root, Images: []string{images}, Log: func(s string) { d.say("  %s", s) }})
	if err != nil {
		return err
	}
	defer d.cluster.Stop()
	if err := d.cluster.WaitDNS(ctx); err != nil {
		return err
	}
	if err := d.tulle(ctx, "install"); err != nil {
		return err
	}
	if err := d.deploy(ctx); err != nil {
		return err
	}
	if err := d.show(ctx); err != nil {
		return err
	}
	if d.stay {
		d.invite()
		<-ctx.Done()
	}
	return nil
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

// saveImages makes the images of the programs that were built for this machine.
func (d *demo) saveImages(ctx context.Context) (string, error) {
	dir, err := os.MkdirTemp("", "tulle-demo-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	if err := os.Mkdir(filepath.Join(dir, runtime.GOARCH), 0o755); err != nil {
		return "", err
	}
	for _, program := range []string{"tulle-controller", "tulle-proxy"} {
		if err := os.Symlink(filepath.Join(d.root, "bin", program), filepath.Join(dir, runtime.GOARCH, program)); err != nil {
			return "", err
		}
	}
	archive := filepath.Join(d.root, "bin", "demo-images.tar")
	return archive, d.tulle(ctx, "images", "save", "--binaries", dir, "--file", archive)
}

// tulle runs the command as a user would.
func (d *demo) tulle(ctx context.Context, args ...string) error {
	d.say("$ tulle %s", strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, filepath.Join(d.root, "bin", "tulle"), args...)
	cmd.Stdout, cmd.Stderr = d.out, os.Stderr
	if d.cluster != nil {
		cmd.Env = append(os.Environ(), "KUBECONFIG="+d.cluster.Kubeconfig)
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("tulle %s: %w", args[0], err)
	}
	return nil
}

// apps are the programs behind the services of the examples.
//
//go:embed apps.yaml
var apps string

// deploy applies the examples of `tulle demo`, with Deployments where those have pods of the loopback.
func (d *demo) deploy(ctx context.Context) error {
	yaml, err := examples(filepath.Join(d.root, "cmd", "tulle", "examples"))
	if err != nil {
		return err
	}
	if _, err := d.cluster.Kubectl.Run(ctx, "create", "namespace", namespace); err != nil {
		return err
	}
	if _, err := d.cluster.Kubectl.Apply(ctx, apps+"---\n"+yaml, "-n", namespace, "apply", "-f", "-"); err != nil {
		return err
	}
	for _, name := range []string{"web-v1", "web-v2", "ledger", "gauge", "client"} {
		if _, err := d.cluster.Kubectl.Run(ctx, "-n", namespace, "rollout", "status", "deployment/"+name, "--timeout=2m"); err != nil {
			return err
		}
	}
	return nil
}

// examples are the documents of the examples that aren't pods.
func examples(dir string) (string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err == nil && len(files) == 0 {
		err = errors.New("no examples in " + dir)
	}
	var docs []string
	for _, f := range files {
		b, readErr := os.ReadFile(f)
		err = errors.Join(err, readErr)
		for doc := range strings.SplitSeq(string(b), "\n---\n") {
			if !strings.Contains(doc, "\nkind: Pod\n") {
				docs = append(docs, doc)
			}
		}
	}
	return strings.Join(docs, "\n---\n"), err
}
