// Package flagenv lets every flag of a command be set by an environment variable, too: --watch-namespaces by
// TULLE_WATCH_NAMESPACES. A flag on the command line wins.
package flagenv

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// Prefix precedes the names of all variables.
const Prefix = "TULLE_"

// Name returns the environment variable of a flag.
func Name(flag string) string {
	return Prefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Apply sets the flags that were not given on the command line from the environment. lookup is os.LookupEnv. An empty
// variable counts as unset, so that a template may leave it empty. Call it when the flags are parsed, in
// PersistentPreRunE.
func Apply(flags *pflag.FlagSet, lookup func(string) (string, bool)) error {
	var first error
	flags.VisitAll(func(f *pflag.Flag) {
		value, ok := lookup(Name(f.Name))
		if first != nil || f.Changed || !ok || value == "" {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			first = fmt.Errorf("%s: %w", Name(f.Name), err)
		}
	})
	return first
}
