package main

import "github.com/spf13/cobra"

func newPolicy() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Find out what access control has to allow",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newPolicyGenerate(), newPolicyObserved())
	return cmd
}
