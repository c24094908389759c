package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/install"
)

type upgradeOptions struct {
	clusterOptions
	valuesOptions
	resetValues bool
	skipCRDs    bool
	wait        bool
	timeout     time.Duration
}

func newUpgrade() *cobra.Command {
	o := &upgradeOptions{}
	cmd := &cobra.Command{
		Use:   "upgrade",
		Short: "Bring an installed mesh to the version of this command, or change its values",
		Long: `Bring an installed mesh to the version of this command, or change its values. Values given earlier are kept.
No request is lost on the way. To roll back, run "tulle upgrade" of the older version.`,
		Example: `  tulle upgrade
  tulle upgrade --set proxy.accessLog=true`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	o.clusterOptions.flags(cmd)
	o.valuesOptions.flags(cmd)
	cmd.Flags().BoolVar(&o.resetValues, "reset-values", false, "forget the values given earlier")
	cmd.Flags().BoolVar(&o.skipCRDs, "skip-crds", false, "leave the SMI CRDs as they are")
	waitFlags(cmd, &o.wait, &o.timeout)
	return cmd
}

func (o *upgradeOptions) run(cmd *cobra.Command) error {
	values, err := o.read(cmd.InOrStdin())
	if err != nil {
		return err
	}
	i, err := o.installer(cmd.OutOrStdout(), o.timeout)
	if err != nil {
		return err
	}
	return i.Upgrade(cmd.Context(), install.UpgradeOptions{
		Options:     install.Options{Values: values, SkipCRDs: o.skipCRDs, NoWait: !o.wait},
		ResetValues: o.resetValues,
	})
}
