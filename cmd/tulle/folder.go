package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tulle-mesh/tulle/internal/install"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// folderFlags are those of commands that read a mesh from a folder.
type folderFlags struct {
	dir         string
	zones       []string
	defaultMode string
	access      string
}

func (f *folderFlags) add(flags *pflag.FlagSet) {
	flags.StringVarP(&f.dir, "filename", "f", "", "folder with YAML files")
	flags.StringSliceVar(&f.zones, "zones", []string{"mesh"}, "DNS zones of the mesh")
	flags.StringVar(&f.defaultMode, "default-mode", "http", "what a TCP port that says nothing carries: http or tcp")
	flags.StringVar(&f.access, "access", "off", "access control of namespaces without the label tulle.dev/access: off, audit or enforce")
}

func (f *folderFlags) check() error {
	if f.dir == "" {
		return install.WithNext(errors.New("no folder to read"), "name a folder of YAML files with -f; `tulle demo` shows one")
	}
	if mode := topology.Protocol(f.defaultMode); mode != topology.HTTP && mode != topology.TCP {
		return install.WithNext(fmt.Errorf("unknown --default-mode %q", f.defaultMode), "use http or tcp")
	}
	if !slices.Contains([]topology.AccessMode{topology.AccessOff, topology.AccessAudit, topology.AccessEnforce}, topology.AccessMode(f.access)) {
		return install.WithNext(fmt.Errorf("unknown --access %q", f.access), "use off, audit or enforce")
	}
	if len(f.zones) == 0 {
		return install.WithNext(errors.New("no --zones"), "name at least one DNS zone, e.g. mesh")
	}
	for _, z := range f.zones {
		if wrong := validation.IsDNS1123Subdomain(strings.Trim(z, ".")); len(wrong) > 0 {
			return install.WithNext(fmt.Errorf("--zones %q is not the name of a zone", z), "use letters, digits, dots and dashes, e.g. mesh")
		}
	}
	return nil
}
