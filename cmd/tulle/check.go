package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/check"
	"github.com/tulle-mesh/tulle/internal/install"
)

type checkOptions struct {
	clusterOptions
	valuesOptions
	pre    bool
	output string
}

func newCheck() *cobra.Command {
	o := &checkOptions{}
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say whether the mesh works, or with --pre, whether a cluster is fit for it",
		Long: `Say whether the mesh works, or with --pre, whether a cluster is fit for it. Nothing is changed.

The exit code is 1 if a line says "failed".`,
		Example: `  tulle check --pre --set 'zones={traefik.mesh}'
  tulle check
  tulle check -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	o.clusterOptions.flags(cmd)
	o.valuesOptions.flags(cmd)
	cmd.Flags().BoolVar(&o.pre, "pre", false, "look at the cluster before installing with these values")
	outputFlag(cmd, &o.output)
	return cmd
}

func (o *checkOptions) run(cmd *cobra.Command) error {
	c, err := o.connect()
	if err != nil {
		return err
	}
	checker := &check.Checker{Cluster: c, Namespace: o.namespace}
	report, err := o.report(cmd, checker)
	if err != nil {
		return err
	}
	if o.output == "json" {
		err = writeJSON(cmd.OutOrStdout(), report)
	} else {
		err = writeReport(cmd.OutOrStdout(), report)
	}
	if n := report.Failed(); err == nil && n > 0 {
		return fmt.Errorf("%d of %d checks failed", n, len(report.Findings))
	}
	return err
}

func (o *checkOptions) report(cmd *cobra.Command, c *check.Checker) (check.Report, error) {
	if !o.pre {
		settings, err := install.SettingsOf(cmd.Context(), c.Cluster, o.namespace)
		if err != nil {
			return check.Report{}, err
		}
		if settings == nil {
			return check.Report{}, notInstalled(o.namespace)
		}
		return c.Installed(cmd.Context(), settings), nil
	}
	values, err := o.read(cmd.InOrStdin())
	if err != nil {
		return check.Report{}, err
	}
	rendered, err := install.Render(install.Release{Namespace: o.namespace, Values: values})
	if err != nil {
		return check.Report{}, err
	}
	settings, err := rendered.Settings()
	if err != nil {
		return check.Report{}, err
	}
	return c.Pre(cmd.Context(), rendered, settings), nil
}

// writeReport writes a line for each finding, and what to do next below it.
func writeReport(w io.Writer, r check.Report) error {
	for _, f := range r.Findings {
		message := strings.ReplaceAll(f.Message, "\n", "\n"+strings.Repeat(" ", 25))
		if _, err := fmt.Fprintf(w, "%-6s  %-16s %s\n", f.Level, f.Check, message); err != nil {
			return err
		}
		if f.Next == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "%25snext: %s\n", "", f.Next); err != nil {
			return err
		}
	}
	return nil
}

func notInstalled(namespace string) error {
	return install.WithNext(fmt.Errorf("the mesh is not installed in namespace %s", namespace),
		"install it with `tulle install` (`tulle check --pre` says whether the cluster is fit), or name its namespace with --namespace")
}
