// Command demo shows the mesh on a Kubernetes cluster that it starts on this machine: it needs Linux and root. The
// services and splits are those of `tulle demo`, the programs those of `make build`.
package main

import (
	"context"
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
	"github.com/tulle-mesh/tulle/integration/shop"
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
	if err := shop.Deploy(ctx, d.cluster.Kubectl, d.root); err != nil {
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
