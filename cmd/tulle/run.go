package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"text/tabwriter"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/meter"
	"github.com/tulle-mesh/tulle/internal/standalone"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// runOptions are the flags of `tulle run`.
type runOptions struct {
	dir         string
	zones       []string
	dns         string
	defaultMode string
	accessLog   bool
	stdout      io.Writer
	stderr      io.Writer
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
	cmd.Flags().StringVarP(&o.dir, "filename", "f", "", "folder with YAML files")
	cmd.Flags().StringSliceVar(&o.zones, "zones", []string{"mesh"}, "DNS zones of the mesh")
	cmd.Flags().StringVar(&o.dns, "dns", "", "loopback address and port of the mesh DNS (default 127.0.0.1:15353, or a free port if that is taken)")
	cmd.Flags().StringVar(&o.defaultMode, "default-mode", "http", "what a TCP port that says nothing carries: http or tcp")
	cmd.Flags().BoolVar(&o.accessLog, "access-log", false, "write a JSON access log to standard output")
	_ = cmd.MarkFlagRequired("filename") // the flag exists
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
	fmt.Fprintln(o.stderr, "identities are simulated: whoever can reach this loopback can call as anybody")
	said := map[problem.Problem]bool{}
	for {
		select {
		case err := <-done:
			return err
		case <-mesh.Changed():
			s := mesh.State()
			said = printProblems(o.stderr, s.Problems, said)
			printServices(o.stdout, s, o.zones[0])
		}
	}
}

func (o *runOptions) mesh(ctx context.Context) (*standalone.Mesh, error) {
	c := standalone.Config{
		Dir: o.dir, Zones: o.zones, DefaultMode: topology.Protocol(o.defaultMode), Loopback: standalone.DetectLoopback(),
		Proxy: proxy.Config{Registerer: prometheus.NewRegistry(), Log: slog.New(slog.NewTextHandler(o.stderr, nil))},
	}
	if c.DefaultMode != topology.HTTP && c.DefaultMode != topology.TCP {
		return nil, fmt.Errorf("--default-mode %q: want http or tcp", o.defaultMode)
	}
	if len(o.zones) == 0 {
		return nil, fmt.Errorf("--zones: want at least one")
	}
	if o.dns != "" {
		address, err := netip.ParseAddrPort(o.dns)
		if err != nil {
			return nil, fmt.Errorf("--dns %q: want an address and a port, e.g. 127.0.0.1:15353", o.dns)
		}
		c.DNSAddress = address
	}
	if o.accessLog {
		c.Proxy.AccessLog = meter.NewAccessLog(o.stdout)
	}
	return standalone.New(ctx, c)
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
	fmt.Fprintf(out, "mesh DNS on %s; try: dig @%s -p %s %s\n\n", s.DNS, host(s.DNS), port(s.DNS), example(s, zone))
}

func example(s standalone.State, zone string) string {
	if len(s.Services) == 0 {
		return "NAME.NAMESPACE." + zone
	}
	return s.Services[0].Name + "." + zone
}

func host(address string) string { return address[:strings.LastIndexByte(address, ':')] }
func port(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }
