//go:build linux

package main

import (
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/flagenv"
	"github.com/tulle-mesh/tulle/internal/version"
)

// newRoot makes the command. Holder and worker take the same flags: the holder passes args on as they are.
func newRoot(args []string, stdout, stderr io.Writer) *cobra.Command {
	o := &options{args: args, stdout: stdout, stderr: stderr}
	root := &cobra.Command{
		Use:   "tulle-proxy",
		Short: "The proxy of the tulle mesh: keeps the listening sockets and a worker that serves them",
		Long: `The proxy of the tulle mesh: keeps the listening sockets and a worker that serves them.

Every flag can be set by an environment variable, too: --log-level by TULLE_LOG_LEVEL.`,
		Args:          cobra.NoArgs,
		Version:       version.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := flagenv.Apply(cmd.Flags(), os.LookupEnv); err != nil {
				return err
			}
			return o.complete()
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return o.hold(cmd.Context()) },
	}
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	o.addFlags(root.PersistentFlags())
	root.AddCommand(&cobra.Command{
		Use:   "worker",
		Short: "Serve the mesh's traffic and names; started by the holder",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return o.work(cmd.Context()) },
	})
	root.AddCommand(&cobra.Command{
		Use:   "dns",
		Short: "Serve the mesh's names only, beside a proxy that is not the mesh's own",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return o.serveNames(cmd.Context()) },
	})
	return root
}
