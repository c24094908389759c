package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/bypass"
	"github.com/tulle-mesh/tulle/internal/install"
	"github.com/tulle-mesh/tulle/internal/status"
)

type statusOptions struct {
	clusterOptions
	output string
}

func newStatus() *cobra.Command {
	o := &statusOptions{}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show controllers, proxies, mesh addresses and the state of DNS",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	o.flags(cmd)
	outputFlag(cmd, &o.output)
	return cmd
}

func (o *statusOptions) run(cmd *cobra.Command) error {
	c, err := o.connect()
	if err != nil {
		return err
	}
	s, err := install.ReadStatus(cmd.Context(), c, o.namespace)
	if err != nil {
		return install.Explain(err)
	}
	if s == nil {
		return install.WithNext(fmt.Errorf("the controllers in namespace %s have not reported anything", o.namespace),
			"`tulle check` says why; if the mesh is elsewhere, name its namespace with --namespace")
	}
	settings, err := install.SettingsOf(cmd.Context(), c, o.namespace)
	if err != nil {
		return err
	}
	signers, err := install.SignersOf(cmd.Context(), c, o.namespace, settings)
	if err != nil {
		return err
	}
	out := meshStatus{s, signers}
	if o.output == "json" {
		return writeJSON(cmd.OutOrStdout(), out)
	}
	return out.write(cmd.OutOrStdout())
}

// meshStatus is what the controllers report, and what they can't know.
type meshStatus struct {
	*status.Status

	Signers *install.Signers `json:",omitempty"`
}

func (s meshStatus) write(w io.Writer) error {
	l := s.Leader
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "version\t%s\n", l.Version)
	fmt.Fprintf(t, "leader\t%s\n", l.Pod)
	fmt.Fprintf(t, "config\t%s\n", l.ConfigVersion)
	a := l.Addresses
	fmt.Fprintf(t, "addresses\t%d of %d services (%s: %d dedicated, %d shared), %d of %d proxies ready on %d nodes\n",
		a.Assigned, a.Services, a.Mode, a.Dedicated, a.Shared, a.Ready, a.Proxies, a.Nodes)
	if l.Engine != nil {
		fmt.Fprintf(t, "engine\t%s\n", l.Engine.Name)
		for _, limit := range l.Engine.Limits {
			fmt.Fprintf(t, "\t  %s\n", limit)
		}
	}
	if l.DNS != nil {
		fmt.Fprintf(t, "dns\t%s (%s, %s %s) %s\n", l.DNS.State, l.DNS.Mode, l.DNS.Kind, l.DNS.Object, l.DNS.Message)
	}
	writeIdentity(t, l.Identity)
	writeSigners(t, s.Signers)
	if s.Bypass {
		fmt.Fprintf(t, "kill switch\ton: mesh names lead past the mesh (tulle dns bypass off)\n")
	}
	fmt.Fprintf(t, "problems\t%d\n", l.ProblemCount)
	if err := t.Flush(); err != nil {
		return err
	}
	if err := writeProxies(w, s.Replicas); err != nil {
		return err
	}
	return writeDirect(w, l.Direct)
}

// writeDirect writes a line for each protected workload.
func writeDirect(w io.Writer, workloads []status.Direct) error {
	if len(workloads) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "\nPROTECTED WORKLOAD\tBYPASS\tCALLS PAST THE MESH\n")
	for _, d := range workloads {
		fmt.Fprintf(t, "%s\t%s\t%s\n", d.Workload, d.Mode, bypass.Text(bypass.State(d.State), d.Why, d.Except))
	}
	return t.Flush()
}

func writeIdentity(w io.Writer, i *status.Identity) {
	switch {
	case i == nil:
		fmt.Fprintf(w, "identities\toff: calls between nodes are in the clear\n")
		return
	case i.Mode == "spire":
		fmt.Fprintf(w, "identities\tby SPIRE\n")
	case i.CAEnds.IsZero():
		fmt.Fprintf(w, "identities\tno CA that could sign any\n")
	default:
		fmt.Fprintf(w, "identities\tthe CA lasts until %s, %d roots are trusted\n", i.CAEnds.Format(time.DateOnly), i.Roots)
	}
	if i.PlainNodes > 0 {
		fmt.Fprintf(w, "in the clear\t%d nodes, whose proxies know of no identities\n", i.PlainNodes)
	}
	if i.NodesWithoutProxy > 0 {
		fmt.Fprintf(w, "without a proxy\t%d nodes: %s\n", i.NodesWithoutProxy, strings.Join(i.WithoutProxy, ", "))
	}
}

// writeSigners says how many there are to certify identities, nothing if that is somebody else's.
func writeSigners(w io.Writer, s *install.Signers) {
	switch {
	case s == nil:
	case s.Missing:
		fmt.Fprintf(w, "signers\tnone: tulle-identity is not there\n")
	default:
		fmt.Fprintf(w, "signers\t%d of %d available\n", s.Available, s.Wanted)
	}
}

// writeProxies writes a line for each connected proxy.
func writeProxies(w io.Writer, replicas []status.Replica) error {
	type row struct {
		status.Proxy
		controller string
	}
	var rows []row
	for _, r := range replicas {
		for _, p := range r.Proxies {
			rows = append(rows, row{p, r.Pod})
		}
	}
	slices.SortFunc(rows, func(a, b row) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Pod, b.Pod)) })
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "\nNODE\tPROXY\tCONFIG\tCONNECTED TO\tSINCE\n")
	for _, r := range rows {
		config := "behind"
		switch {
		case len(r.Refused) > 0:
			config = fmt.Sprintf("refuses %d", len(r.Refused))
		case r.Current:
			config = "current"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", r.Node, r.Pod, config, r.controller, r.Connected.UTC().Format(time.RFC3339))
	}
	return t.Flush()
}
