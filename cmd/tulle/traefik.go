package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/files"
	"github.com/tulle-mesh/tulle/internal/install"
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/topology"
	"github.com/tulle-mesh/tulle/internal/traefik"
)

func newTraefik() *cobra.Command {
	cmd := &cobra.Command{Use: "traefik", Short: "For those who let stock Traefik carry the mesh's traffic"}
	cmd.AddCommand(newTraefikRender())
	return cmd
}

// traefikRenderOptions are the flags of `tulle traefik render`.
type traefikRenderOptions struct {
	dir         string
	zones       []string
	defaultMode string
	access      string
	allow       []string
	first, last int32
	static      bool
}

func newTraefikRender() *cobra.Command {
	o := &traefikRenderOptions{}
	cmd := &cobra.Command{
		Use:   "render -f DIR",
		Short: "Print the mesh of a folder of YAML files as dynamic configuration of Traefik v2",
		Long: `Print the mesh of a folder of YAML files as dynamic configuration of Traefik v2, for its file provider.

HTTP services share an entry point for each port number, tcp-80 for port 80, where the Host header says which one is
meant. Every TCP and UDP port has an entry point of its own, of a range of ports. --static prints what the static
configuration has to say of the entry points that are in use. Problems go to standard error.`,
		Example: `  tulle traefik render -f objects > /etc/traefik/dynamic/mesh.yaml
  tulle traefik render -f objects --static >> /etc/traefik/traefik.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.OutOrStdout(), cmd.ErrOrStderr()) },
	}
	cmd.Flags().StringVarP(&o.dir, "filename", "f", "", "folder with YAML files")
	cmd.Flags().StringSliceVar(&o.zones, "zones", []string{"mesh"}, "DNS zones of the mesh")
	cmd.Flags().StringVar(&o.defaultMode, "default-mode", "http", "what a TCP port that says nothing carries: http or tcp")
	cmd.Flags().StringVar(&o.access, "access", "off", "access control of namespaces without the label tulle.dev/access: off, audit or enforce")
	cmd.Flags().StringSliceVar(&o.allow, "endpoints-allow", nil, "CIDRs that endpoints may lie in although they are refused otherwise")
	cmd.Flags().Int32Var(&o.first, "first-port", 20000, "first port of the entry points of TCP and UDP")
	cmd.Flags().Int32Var(&o.last, "last-port", 20099, "last port of the entry points of TCP and UDP")
	cmd.Flags().BoolVar(&o.static, "static", false, "print the entry points of the static configuration instead")
	return cmd
}

func (o *traefikRenderOptions) run(stdout, stderr io.Writer) error {
	config, err := o.config()
	if err != nil {
		return err
	}
	source, err := files.Open(o.dir)
	if err != nil {
		return install.WithNext(err, "name a folder of YAML files with -f; `tulle demo` shows one")
	}
	t, found := topology.Build(config, source.Snapshot().Resources)
	assigned, short := shadow.Offline(t, shadow.Range{First: o.first, Last: o.last})
	dynamic, lost := traefik.Render(traefik.Config{Zones: o.zones}, t, assigned)
	var out []byte
	if o.static {
		out, err = yaml.Marshal(traefik.StaticOf(assigned))
	} else if out, err = traefik.Encode(dynamic); err == nil {
		out, err = yaml.JSONToYAML(out)
	}
	if err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	for _, p := range slices.SortedFunc(slices.Values(slices.Concat(found, short, lost)), problem.Problem.Compare) {
		fmt.Fprintln(stderr, p)
	}
	_, err = stdout.Write(out)
	return err
}

// config checks the flags.
func (o *traefikRenderOptions) config() (topology.Config, error) {
	c := topology.Config{DefaultMode: topology.Protocol(o.defaultMode), AccessDefault: topology.AccessMode(o.access)}
	if o.dir == "" {
		return c, install.WithNext(errors.New("no folder to read"), "name a folder of YAML files with -f; `tulle demo` shows one")
	}
	if c.DefaultMode != topology.HTTP && c.DefaultMode != topology.TCP {
		return c, install.WithNext(fmt.Errorf("unknown --default-mode %q", o.defaultMode), "use http or tcp")
	}
	if !slices.Contains([]topology.AccessMode{topology.AccessOff, topology.AccessAudit, topology.AccessEnforce}, c.AccessDefault) {
		return c, install.WithNext(fmt.Errorf("unknown --access %q", o.access), "use off, audit or enforce")
	}
	if o.first < 1 || o.last < o.first || o.last > 65535 {
		return c, install.WithNext(fmt.Errorf("--first-port %d and --last-port %d are no range of ports", o.first, o.last), "use e.g. 20000 and 20099")
	}
	for _, text := range o.allow {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return c, install.WithNext(fmt.Errorf("--endpoints-allow %q is not a CIDR", text), "use e.g. 127.0.0.0/8")
		}
		c.AllowedEndpoints = append(c.AllowedEndpoints, p)
	}
	return c, nil
}
