package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/bugreport"
	"github.com/tulle-mesh/tulle/internal/check"
	"github.com/tulle-mesh/tulle/internal/install"
)

type bugreportOptions struct {
	clusterOptions
	file string
}

func newBugreport() *cobra.Command {
	o := &bugreportOptions{}
	cmd := &cobra.Command{
		Use:   "bugreport",
		Short: "Collect what helps to find a fault into an archive, without secrets",
		Long: `Collect what helps to find a fault into an archive: the mesh's objects, status, logs, metrics and checks, all Services,
EndpointSlices, NetworkPolicies, Nodes and SMI objects.

Secrets are not read; what looks like a password, token or key in the rest is taken out. Look the archive through before
you give it away all the same.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	o.flags(cmd)
	cmd.Flags().StringVarP(&o.file, "file", "f", "tulle-bugreport.tar.gz", "`file` to write, - for standard output")
	return cmd
}

func (o *bugreportOptions) run(cmd *cobra.Command) error {
	c, err := o.connect()
	if err != nil {
		return err
	}
	if _, err := c.KubeVersion(); err != nil {
		return err // better than a report in which everything is missing
	}
	settings, err := install.SettingsOf(cmd.Context(), c, o.namespace)
	if err != nil {
		return err
	}
	report := (&check.Checker{Cluster: c, Namespace: o.namespace}).Installed(cmd.Context(), settings)
	collector := &bugreport.Collector{Cluster: c, Namespace: o.namespace, Report: report, Time: time.Now()}
	if o.file == "-" {
		return collector.Write(cmd.Context(), cmd.OutOrStdout())
	}
	if err := writeFile(o.file, func(w io.Writer) error { return collector.Write(cmd.Context(), w) }); err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s written; look it through before you give it away\n", o.file)
	return err
}

// writeFile writes a file that only its owner may read, and removes it if that fails.
func writeFile(name string, write func(io.Writer) error) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return install.WithNext(err, "name a file that you may write")
	}
	if err := write(f); err != nil {
		f.Close()
		return errors.Join(err, os.Remove(name))
	}
	return f.Close()
}
