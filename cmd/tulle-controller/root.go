package main

import (
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/flagenv"
	"github.com/tulle-mesh/tulle/internal/version"
)

func newRoot(args []string, stdout, stderr io.Writer) *cobra.Command {
	o := &options{process: process{component: "controller", stderr: stderr}}
	root := &cobra.Command{
		Use:   "tulle-controller",
		Short: "The controller of the tulle mesh: makes config of a cluster's objects and gives it to the proxies",
		Long: `The controller of the tulle mesh: makes config of a cluster's objects and gives it to the proxies. What needs rights that
it should not have is a subcommand, for a process with an account of its own.

Every flag can be set by an environment variable, too: --log-level by TULLE_LOG_LEVEL.`,
		Args:          cobra.NoArgs,
		Version:       version.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := flagenv.Apply(cmd.Flags(), os.LookupEnv); err != nil {
				return err
			}
			c, err := o.complete()
			if err != nil {
				return err
			}
			return c.run(cmd.Context())
		},
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	o.addFlags(root.Flags())
	root.AddCommand(newSigner(stderr), newDNSCommand(stderr))
	return root
}
