package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tulle-mesh/tulle/internal/standalone"
)

//go:embed examples/*.yaml
var examples embed.FS

// demoOptions are the flags of `tulle demo`.
type demoOptions struct {
	stay   bool
	stdout io.Writer
	stderr io.Writer
}

func newDemo(stdin io.Reader) *cobra.Command {
	o := &demoOptions{stay: isTerminal(stdin)}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the mesh on this machine's loopback: no root, no Kubernetes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.stdout, o.stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return o.run(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&o.stay, "stay", o.stay, "leave the mesh running until ^C (default: only on a terminal)")
	return cmd
}

func isTerminal(r io.Reader) bool {
	f, ok := r.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func (o *demoOptions) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	servers, err := startDemoServers(ctx)
	if err != nil {
		return err
	}
	defer servers.Close()
	dir, err := copyExamples(servers.moved)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	run := runOptions{folderFlags: folderFlags{dir: dir, zones: []string{"mesh"}, defaultMode: "http", access: "off"}, stdout: o.stdout, stderr: o.stderr}
	mesh, err := run.mesh(ctx)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- mesh.Run(ctx) }()
	show := &demoShow{mesh: mesh, dir: dir, out: o.stdout}
	if err := errors.Join(show.run(ctx), unlessDone(done)); err != nil {
		cancel()
		return errors.Join(err, <-done)
	}
	if !o.stay {
		cancel()
		return <-done
	}
	show.invite()
	return run.tell(mesh, done)
}

// unlessDone returns the error of a mesh that ended by itself.
func unlessDone(done <-chan error) error {
	select {
	case err := <-done:
		return errors.Join(errors.New("the mesh ended"), err)
	default:
		return nil
	}
}

// copyExamples writes the examples into a folder that the user may change them in.
func copyExamples(change func(yaml string) string) (string, error) {
	dir, err := os.MkdirTemp("", "tulle-demo-")
	if err != nil {
		return "", fmt.Errorf("make a folder for the examples: %w", err)
	}
	files, err := fs.Glob(examples, "examples/*.yaml")
	for _, name := range files {
		var content []byte
		if content, err = examples.ReadFile(name); err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(name)), []byte(change(string(content))), 0o600)
		}
		if err != nil {
			break
		}
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("copy the examples: %w", err), os.RemoveAll(dir))
	}
	return dir, nil
}

// demoShow walks through what the mesh does and fails if it doesn't.
type demoShow struct {
	mesh *standalone.Mesh
	dir  string
	out  io.Writer
}

const halfAndHalf = `apiVersion: split.smi-spec.io/v1alpha4
kind: TrafficSplit
metadata: {name: web, namespace: shop}
spec:
  service: web
  backends:
  - {service: web-v1, weight: 50}
  - {service: web-v2, weight: 50}
`

func (s *demoShow) run(ctx context.Context) error {
	if err := s.started(ctx); err != nil {
		return err
	}
	printServices(s.out, s.mesh.State(), "mesh")
	client := newDemoClient(s.mesh.State())
	fmt.Fprintf(s.out, "%-44s %s\n", "CALL", "WHAT ANSWERED")
	steps := []demoStep{
		{"100 x http://web.shop.mesh/, split 90/10", client.requests(100, ""), "v1: 90, v2: 10"},
		{"20 x the same with header x-beta: yes", client.requests(20, "yes"), "v2: 20"},
		{"tcp ledger.shop.mesh:7000", client.tcp, "ledger ready, booked 42"},
		{"udp gauge.shop.mesh:8125", client.udp, "counted 42"},
	}
	for _, step := range steps {
		if err := s.step(ctx, step); err != nil {
			return err
		}
	}
	if err := s.rewrite("split.yaml", halfAndHalf); err != nil {
		return fmt.Errorf("change the split: %w", err)
	}
	changed := time.Now()
	if err := s.taken(ctx); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "split.yaml rewritten to 50/50: in effect after %s\n", time.Since(changed).Round(time.Millisecond))
	return s.step(ctx, demoStep{"100 x http://web.shop.mesh/, split 50/50", client.requests(100, ""), "v1: 50, v2: 50"})
}

// rewrite replaces a file in one step, so that nobody reads half of it.
func (s *demoShow) rewrite(name, content string) error {
	part := filepath.Join(s.dir, "."+name)
	if err := os.WriteFile(part, []byte(content), 0o600); err != nil {
		return err
	}
	return os.Rename(part, filepath.Join(s.dir, name))
}

// started waits for the first config.
func (s *demoShow) started(ctx context.Context) error {
	if err := s.taken(ctx); err != nil {
		return err
	}
	for _, p := range s.mesh.State().Problems {
		return fmt.Errorf("the demo's own files have a problem: %s", p)
	}
	return nil
}

// taken waits until the files' content is in use.
func (s *demoShow) taken(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(10 * time.Second):
		return errors.New("the mesh did not take its files into use within 10 s")
	case <-s.mesh.Changed():
		return nil
	}
}

// demoStep is one line of the table: what is called, and what has to answer.
type demoStep struct {
	what string
	call func(context.Context) (string, error)
	want string
}

func (s *demoShow) step(ctx context.Context, step demoStep) error {
	got, err := step.call(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", step.what, err)
	}
	fmt.Fprintf(s.out, "%-44s %s\n", step.what, got)
	if got != step.want {
		return fmt.Errorf("%s: %s answered, want %s", step.what, got, step.want)
	}
	return nil
}

func (s *demoShow) invite() {
	state := s.mesh.State()
	fmt.Fprintf(s.out, "\nThe mesh goes on until ^C. Its files are in %s: change them and watch.\n", s.dir)
	for _, service := range state.Services {
		if service.Name == "web.shop" {
			fmt.Fprintf(s.out, "  curl http://%s:%d/\n", service.Address, service.Ports[0].Served)
		}
	}
}
