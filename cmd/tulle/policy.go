package main

import "github.com/spf13/cobra"

func newPolicy() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Find out what access control has to allow, and close the way around the mesh",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newPolicyPlan(), newPolicyGenerate(), newPolicyObserved())
	return cmd
}
