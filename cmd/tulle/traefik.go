package main

import (
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
	folderFlags

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
	o.add(cmd.Flags())
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

// config checks the flags. Addresses of the loopback are as good as others in files that somebody wrote, as with
// `tulle run`.
func (o *traefikRenderOptions) config() (topology.Config, error) {
	c := topology.Config{
		DefaultMode: topology.Protocol(o.defaultMode), AccessDefault: topology.AccessMode(o.access), TrustTargetRefs: true,
		AllowedEndpoints: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
	}
	if err := o.check(); err != nil {
		return c, err
	}
	if o.first < 1 || o.last < o.first || o.last > 65535 {
		return c, install.WithNext(fmt.Errorf("--first-port %d and --last-port %d are no range of ports", o.first, o.last), "use e.g. 20000 and 20099")
	}
	return c, nil
}
