package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/install"
	"github.com/tulle-mesh/tulle/internal/kube"
)

func newDNS() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dns",
		Short: "Look after the mesh's names",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newBypass())
	return cmd
}

func newBypass() *cobra.Command {
	o := &clusterOptions{}
	cmd := &cobra.Command{
		Use:   "bypass on|off",
		Short: "The kill switch: make mesh names lead past the mesh, or back into it",
		Long: `The kill switch: make mesh names lead past the mesh, or back into it.

While it is on, the mesh DNS answers with the addresses of the plain Services. Clients follow as they look names up again,
at most 5 seconds later; connections that are open stay where they are.`,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"on", "off"},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.connect()
			if err != nil {
				return err
			}
			settings, err := install.SettingsOf(cmd.Context(), c, o.namespace)
			if err != nil {
				return err
			}
			if settings == nil {
				return notInstalled(o.namespace)
			}
			on := args[0] == "on"
			if err := kube.SetBypass(cmd.Context(), c.Kube, o.namespace, on); err != nil {
				return install.Explain(err)
			}
			if on {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), "mesh names lead past the mesh as soon as clients look them up again; `tulle dns bypass off` undoes it")
			} else {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), "mesh names lead into the mesh again as soon as clients look them up")
			}
			return err
		},
	}
	o.flags(cmd)
	return cmd
}
