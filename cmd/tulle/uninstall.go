package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/install"
)

type uninstallOptions struct {
	clusterOptions
	force   bool
	crds    bool
	window  time.Duration
	timeout time.Duration
}

func newUninstall() *cobra.Command {
	o := &uninstallOptions{}
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Take the mesh out of a cluster, and leave nothing behind",
		Long: `Take the mesh out of a cluster, and leave nothing behind: the cluster's DNS gets back the configuration that it had,
and everything that was installed or made later is removed, also if Helm installed it. The SMI objects and their CRDs
stay, unless --crds is given.

It refuses while clients use mesh names: their calls would fail.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	o.flags(cmd)
	f := cmd.Flags()
	f.BoolVar(&o.force, "force", false, "don't look whether clients use mesh names")
	f.BoolVar(&o.crds, "crds", false, "remove the SMI CRDs that tulle installed, and with them all SMI objects")
	f.DurationVar(&o.window, "window", 10*time.Second, "how long to look whether clients use mesh names")
	f.DurationVar(&o.timeout, "timeout", 5*time.Minute, "how long to wait for each step")
	return cmd
}

func (o *uninstallOptions) run(cmd *cobra.Command) error {
	i, err := o.installer(cmd.OutOrStdout(), o.timeout)
	if err != nil {
		return err
	}
	return i.Uninstall(cmd.Context(), install.UninstallOptions{Force: o.force, CRDs: o.crds, Window: o.window})
}
