package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/install"
	"github.com/tulle-mesh/tulle/internal/observed"
)

type policyGenerateOptions struct {
	observedOptions
	fromObserved bool
}

func newPolicyGenerate() *cobra.Command {
	o := &policyGenerateOptions{}
	cmd := &cobra.Command{
		Use:   "generate --from-observed",
		Short: "Propose TrafficTargets for what was called in audit mode",
		Long: `Propose TrafficTargets, HTTPRouteGroups, TCPRoutes and UDPRoutes that allow what was called in audit mode, and nothing
else, except where a comment says "wider". Each line says in a comment what it comes from. Nothing is changed in the cluster.

The proxies keep what they saw until they restart. Save it now and then with ` + "`tulle policy observed -o json`" + `, and give all
that was saved with -f: it is put together.`,
		Example: `  tulle policy generate --from-observed --to shop > proposed.yaml
  tulle policy generate --from-observed -f monday.json -f tuesday.json --to shop/web`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&o.fromObserved, "from-observed", false, "propose what was seen; the only way there is")
	return cmd
}

func (o *policyGenerateOptions) run(cmd *cobra.Command) error {
	if !o.fromObserved {
		return install.WithNext(errors.New("propose from what?"), "give --from-observed")
	}
	reports, err := o.read(cmd)
	if err != nil {
		return err
	}
	m := observed.Merge(reports.Proxies)
	m.Missing = reports.Missing
	_, err = cmd.OutOrStdout().Write(observed.Generate(m))
	return err
}
