package main

import (
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/flagenv"
)

// newRoot makes the command with all its subcommands.
func newRoot(stdin io.Reader, stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "tulle",
		Short: "A light service mesh that workloads opt into by a DNS name",
		Long: `A light service mesh that workloads opt into by a DNS name.

Every flag can be set by an environment variable, too: --timeout by TULLE_TIMEOUT.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return flagenv.Apply(cmd.Flags(), os.LookupEnv)
		},
	}
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.AddCommand(newInstall(), newUpgrade(), newUninstall(), newCheck(), newStatus(), newWhy(), newPolicy(), newDNS(), newImages(), newBugreport(), newVersion())
	root.AddCommand(newRun(), newDemo(stdin), newTraefik())
	return root
}
