package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/version"
)

type versionOptions struct{ output string }

// build is what `tulle version` says about itself.
type build struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func newVersion() *cobra.Command {
	o := &versionOptions{}
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this command, which is the version it installs",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	outputFlag(cmd, &o.output)
	return cmd
}

func (o *versionOptions) run(cmd *cobra.Command) error {
	b := build{Version: version.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				b.Revision = s.Value
			}
		}
	}
	if o.output == "json" {
		return writeJSON(cmd.OutOrStdout(), b)
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "tulle %s (%s, %s)\n", b.Version, b.Go, b.Platform)
	return err
}
