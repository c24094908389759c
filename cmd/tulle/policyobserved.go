package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/install"
	"github.com/tulle-mesh/tulle/internal/observed"
)

// observedOptions say whose observations a command is about, and where they are.
type observedOptions struct {
	clusterOptions
	to    string
	files []string
}

func (o *observedOptions) flags(cmd *cobra.Command) {
	o.clusterOptions.flags(cmd)
	cmd.Flags().StringVar(&o.to, "to", "", "only what called this `destination`: a namespace, or namespace/serviceaccount")
	cmd.Flags().StringArrayVarP(&o.files, "filename", "f", nil, "`file` of tulle policy observed -o json, or a folder with them, to read instead of the cluster; may be repeated, - is standard input")
}

type policyObservedOptions struct {
	observedOptions
	denied bool
	output string
}

func newPolicyObserved() *cobra.Command {
	o := &policyObservedOptions{}
	cmd := &cobra.Command{
		Use:   "observed",
		Short: "Show what was called in audit mode",
		Long: `Show what was called in audit mode, and what would have been denied: who called which workload, on which port, and with
which requests. Parts of paths that look like identifiers are replaced by what kind they are of, such as #number.

The proxies keep it until they restart. They are reached as kubectl port-forward does, with your own rights: to list pods
and to create pods/portforward in the mesh's namespace.`,
		Example: `  tulle policy observed --to shop --denied
  tulle policy observed -o json > monday.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&o.denied, "denied", false, "only what the policies that are in use now would deny")
	outputFlag(cmd, &o.output)
	return cmd
}

func (o *policyObservedOptions) run(cmd *cobra.Command) error {
	reports, err := o.read(cmd)
	if err != nil {
		return err
	}
	if o.output == "json" {
		return writeJSON(cmd.OutOrStdout(), reports)
	}
	return writeObserved(cmd.OutOrStdout(), observed.Merge(reports.Proxies), o.denied)
}

// read reads from files, or asks the proxies. Who did not answer is told.
func (o *observedOptions) read(cmd *cobra.Command) (observed.Reports, error) {
	var out observed.Reports
	if len(o.files) > 0 {
		for _, name := range o.files {
			if err := o.file(cmd, name, &out); err != nil {
				return out, install.WithNext(err, "name files that `tulle policy observed -o json` wrote")
			}
		}
	} else if err := o.ask(cmd, &out); err != nil {
		return out, err
	}
	if len(out.Missing) > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "incomplete: these proxies did not answer: %s\n", strings.Join(out.Missing, ", "))
	}
	return out, nil
}

func (o *observedOptions) ask(cmd *cobra.Command, out *observed.Reports) error {
	c, err := o.connect()
	if err != nil {
		return err
	}
	reports, missing, err := install.ReadObserved(cmd.Context(), c, o.namespace, o.to)
	if err != nil {
		return install.WithNext(err, "it takes the rights to list pods and to create pods/portforward in namespace %s; who has them can save it with `tulle policy observed --to NAMESPACE -o json`, for you to read with -f", o.namespace)
	}
	if len(reports) == 0 {
		return notInstalled(o.namespace)
	}
	out.Proxies, out.Missing = reports, slices.Sorted(maps.Keys(missing))
	return nil
}

// file reads one file, or all of a folder.
func (o *observedOptions) file(cmd *cobra.Command, name string, out *observed.Reports) error {
	names := []string{name}
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		if names, err = filepath.Glob(filepath.Join(name, "*.json")); err != nil || len(names) == 0 {
			return fmt.Errorf("the folder %s has no *.json", name)
		}
	}
	for _, name := range names {
		data, err := readObserved(name, cmd.InOrStdin())
		if err != nil {
			return err
		}
		var one observed.Reports
		d := json.NewDecoder(bytes.NewReader(data))
		d.DisallowUnknownFields() // what it isn't should not pass for one that is empty
		if err := d.Decode(&one); err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if err := one.Validate(); err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		for _, r := range one.Proxies {
			out.Proxies = append(out.Proxies, r.Only(observed.To(o.to)))
		}
		out.Missing = append(out.Missing, one.Missing...)
	}
	return nil
}

func readObserved(name string, stdin io.Reader) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(name)
}

// writeObserved writes a line for each kind of call.
func writeObserved(w io.Writer, m observed.Merged, denied bool) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "TO\tFROM\tSERVICE\tPORT\tREQUEST\tVERDICT\tCALLS\tLAST\n")
	for _, e := range m.Edges {
		for _, c := range e.Calls {
			verdict := string(cmp.Or(c.Reason, "allowed"))
			if denied && (c.Reason == "" || c.Past) {
				continue
			}
			if c.Past {
				verdict += " (by a policy before)"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%d/%s\t%s\t%s\t%d\t%s\n", e.To, cmp.Or(e.From, "-"), e.Service, e.Port, e.Protocol,
				cmp.Or(strings.TrimSpace(c.Method+" "+c.Path), "-"), verdict, c.Count, c.Last.UTC().Format(time.RFC3339))
		}
		if e.Lost > 0 {
			fmt.Fprintf(t, "%s\t%s\t%s\t%d/%s\t%s\t%s\t%d\t%s\n", e.To, cmp.Or(e.From, "-"), e.Service, e.Port, e.Protocol, "-", "not recorded: too many kinds", e.Lost, "-")
		}
	}
	if err := t.Flush(); err != nil || m.Lost == 0 {
		return err
	}
	_, err := fmt.Fprintf(w, "truncated: %d calls of others were not recorded\n", m.Lost)
	return err
}
