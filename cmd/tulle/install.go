package main

import (
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/install"
)

type installOptions struct {
	clusterOptions
	valuesOptions
	dryRun      bool
	kubeVersion string
	showValues  bool
	skipCRDs    bool
	skipChecks  bool
	wait        bool
	timeout     time.Duration
}

func newInstall() *cobra.Command {
	o := &installOptions{}
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Install the mesh into a cluster",
		Long: `Install the mesh into a cluster and wait until it works: controllers available, proxies ready on every node,
mesh names resolving.

The cluster is made to hold exactly what the given values say. Installing the same again changes nothing; to change one
value of an installed mesh and keep the others use "tulle upgrade".`,
		Example: `  tulle install
  tulle install --set 'zones={mesh,traefik.mesh}'
  tulle install --dry-run > tulle.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	o.clusterOptions.flags(cmd)
	o.valuesOptions.flags(cmd)
	f := cmd.Flags()
	f.BoolVar(&o.dryRun, "dry-run", false, "print the YAML instead of applying it; no cluster is asked")
	f.StringVar(&o.kubeVersion, "kube-version", install.DefaultKubeVersion, "`version` of Kubernetes that --dry-run renders for")
	f.BoolVar(&o.showValues, "show-values", false, "print all values with their defaults and what they mean")
	f.BoolVar(&o.skipCRDs, "skip-crds", false, "don't install the SMI CRDs")
	f.BoolVar(&o.skipChecks, "skip-checks", false, "install also if the cluster's DNS doesn't look fit for it")
	waitFlags(cmd, &o.wait, &o.timeout)
	return cmd
}

// waitFlags adds the flags of commands that wait for the cluster.
func waitFlags(cmd *cobra.Command, wait *bool, timeout *time.Duration) {
	cmd.Flags().BoolVar(wait, "wait", true, "wait until the mesh works")
	cmd.Flags().DurationVar(timeout, "timeout", 5*time.Minute, "how long to wait for each step")
}

func (o *installOptions) run(cmd *cobra.Command) error {
	if o.showValues {
		return install.WriteDefaults(cmd.OutOrStdout())
	}
	values, err := o.read(cmd.InOrStdin())
	if err != nil {
		return err
	}
	if o.dryRun {
		return o.print(cmd.OutOrStdout(), values)
	}
	i, err := o.installer(cmd.OutOrStdout(), o.timeout)
	if err != nil {
		return err
	}
	return i.Install(cmd.Context(), install.Options{Values: values, SkipCRDs: o.skipCRDs, SkipChecks: o.skipChecks, NoWait: !o.wait})
}

func (o *installOptions) print(w io.Writer, values install.Values) error {
	r, err := install.Render(install.Release{Namespace: o.namespace, Values: values, KubeVersion: o.kubeVersion})
	if err != nil {
		return err
	}
	if err := install.Encode(w, install.Namespace(o.namespace)); err != nil {
		return err
	}
	if !o.skipCRDs {
		if err := install.Encode(w, r.CRDs...); err != nil {
			return err
		}
	}
	return install.Encode(w, r.Objects...)
}
