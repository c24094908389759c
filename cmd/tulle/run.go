package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/install"
	"github.com/tulle-mesh/tulle/internal/observed"
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/meter"
	"github.com/tulle-mesh/tulle/internal/standalone"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// runOptions are the flags of `tulle run`.
type runOptions struct {
	folderFlags

	dns       string
	accessLog bool
	observed  string
	stdout    io.Writer
	stderr    io.Writer
}

func newRun() *cobra.Command {
	o := &runOptions{}
	cmd := &cobra.Command{
		Use:   "run -f DIR",
		Short: "Run the mesh without Kubernetes, on this machine's loopback, from a folder of YAML files",
		Long: `Run the whole mesh without Kubernetes: Services, EndpointSlices or Pods, and SMI objects are read from the YAML
files of a folder, and read again when they change. Every service gets a loopback address on which its own ports are
served; the mesh DNS answers on a loopback port. Identities are simulated, so nothing listens outside the loopback.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.stdout, o.stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return o.run(cmd.Context())
		},
	}
	o.add(cmd.Flags())
	cmd.Flags().StringVar(&o.dns, "dns", "", "loopback address and port of the mesh DNS (default 127.0.0.1:15353, or a free port if that is taken)")
	cmd.Flags().BoolVar(&o.accessLog, "access-log", false, "write a JSON access log to standard output")
	cmd.Flags().StringVar(&o.observed, "observed", "", "`file` to write at the end: what was called in audit mode, for tulle policy generate -f")
	return cmd
}

func (o *runOptions) run(ctx context.Context) error {
	mesh, err := o.mesh(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- mesh.Run(ctx) }()
	if err := o.tell(mesh, done); err != nil || o.observed == "" {
		return err
	}
	return writeFile(o.observed, func(w io.Writer) error {
		return writeJSON(w, observed.Reports{Proxies: []observed.Report{mesh.Observed()}})
	})
}

// tell says what the mesh serves and what is wrong, now and whenever it changes, until the mesh ends.
func (o *runOptions) tell(mesh *standalone.Mesh, done <-chan error) error {
	fmt.Fprintln(o.stderr, "identities are simulated: whoever can reach this loopback can call as anybody")
	said := map[problem.Problem]bool{}
	var shown []standalone.Service
	for {
		select {
		case err := <-done:
			return err
		case <-mesh.Changed():
		}
		s := mesh.State()
		said = printProblems(o.stderr, s.Problems, said)
		if shown != nil && reflect.DeepEqual(shown, s.Services) {
			fmt.Fprintln(o.stdout, "the changed files are in use")
			continue
		}
		printServices(o.stdout, s, o.zones[0])
		shown = s.Services
	}
}

// mesh opens what the flags say.
func (o *runOptions) mesh(ctx context.Context) (*standalone.Mesh, error) {
	c, err := o.config()
	if err != nil {
		return nil, err
	}
	m, err := standalone.New(ctx, c)
	switch {
	case errors.Is(err, standalone.ErrNotLoopback):
		return nil, install.WithNext(err, "give --dns an address of the loopback, e.g. 127.0.0.1:15353")
	case errors.Is(err, syscall.EADDRINUSE), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, install.WithNext(err, "give --dns another address, or leave it out to get a port that is free")
	}
	return m, install.WithNext(err, "name a folder of YAML files with -f; `tulle demo` shows one")
}

// config checks the flags.
func (o *runOptions) config() (standalone.Config, error) {
	c := standalone.Config{
		Dir: o.dir, Zones: o.zones, DefaultMode: topology.Protocol(o.defaultMode), Access: topology.AccessMode(o.access), Loopback: standalone.DetectLoopback(),
		Proxy: proxy.Config{Log: slog.New(slog.NewTextHandler(o.stderr, nil))},
	}
	if err := o.check(); err != nil {
		return c, err
	}
	if o.dns != "" {
		address, err := netip.ParseAddrPort(o.dns)
		if err != nil {
			return c, install.WithNext(fmt.Errorf("--dns %q is not an address and a port", o.dns), "give it both, e.g. 127.0.0.1:15353")
		}
		c.DNSAddress = address
	}
	if o.accessLog {
		c.Proxy.AccessLog = meter.NewAccessLog(o.stdout)
	}
	return c, nil
}

// printProblems prints those that were not said before and returns what is said now.
func printProblems(w io.Writer, problems []problem.Problem, before map[problem.Problem]bool) map[problem.Problem]bool {
	now := map[problem.Problem]bool{}
	for _, p := range problems {
		now[p] = true
		if !before[p] {
			fmt.Fprintln(w, p)
		}
	}
	for p := range before {
		if !now[p] {
			fmt.Fprintf(w, "solved: %s\n", p)
		}
	}
	return now
}

// printServices prints what is served where.
func printServices(out io.Writer, s standalone.State, zone string) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tADDRESS\tPORTS")
	for _, service := range s.Services {
		var ports []string
		for _, p := range service.Ports {
			text := fmt.Sprintf("%d/%s", p.Number, p.Protocol)
			if p.Served != p.Number {
				text += fmt.Sprintf(" (on %d)", p.Served)
			}
			ports = append(ports, text)
		}
		fmt.Fprintf(w, "%s.%s\t%s\t%s\n", service.Name, zone, service.Address, strings.Join(ports, ", "))
	}
	_ = w.Flush() // an error would be the terminal's
	host, port, err := net.SplitHostPort(s.DNS)
	if err != nil {
		return // there is no such address
	}
	fmt.Fprintf(out, "mesh DNS on %s; try: dig @%s -p %s %s\n\n", s.DNS, host, port, example(s, zone))
}

func example(s standalone.State, zone string) string {
	if len(s.Services) == 0 {
		return "NAME.NAMESPACE." + zone
	}
	return s.Services[0].Name + "." + zone
}
