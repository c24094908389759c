package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/install"
)

// valuesOptions are values of the chart on the command line.
type valuesOptions struct{ files, set, setString []string }

func (o *valuesOptions) flags(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&o.files, "values", "f", nil, "values `file`, - for standard input; may be given several times")
	cmd.Flags().StringArrayVar(&o.set, "set", nil, "`key=value` as helm reads it, over the files; may be given several times")
	cmd.Flags().StringArrayVar(&o.setString, "set-string", nil, "`key=value` like --set, but the value is a string whatever it looks like")
}

func (o *valuesOptions) read(stdin io.Reader) (install.Values, error) {
	return install.ReadValues(stdin, install.ValuesSource{Files: o.files, Set: o.set, SetString: o.setString})
}
