package flagenv

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

func TestApply(t *testing.T) {
	env := map[string]string{"TULLE_LOG_LEVEL": "debug", "TULLE_LEASE_DURATION": "3s", "TULLE_ZONES": "mesh,traefik.mesh", "TULLE_PORT": "1", "TULLE_EMPTY": ""}
	lookup := func(k string) (string, bool) { v, ok := env[k]; return v, ok }
	flags := pflag.NewFlagSet("x", pflag.ContinueOnError)
	level := flags.String("log-level", "info", "")
	lease := flags.Duration("lease-duration", 0, "")
	zones := flags.StringSlice("zones", []string{"mesh"}, "")
	port := flags.Int("port", 15010, "")
	empty := flags.String("empty", "default", "")
	if err := flags.Parse([]string{"--port", "2"}); err != nil {
		t.Fatal(err)
	}
	if err := Apply(flags, lookup); err != nil {
		t.Fatal(err)
	}
	if *level != "debug" || *lease != 3*time.Second || !slices.Equal(*zones, []string{"mesh", "traefik.mesh"}) {
		t.Errorf("environment not taken: %v %v %v", *level, *lease, *zones)
	}
	if *port != 2 {
		t.Errorf("port is %d: the command line must win", *port)
	}
	if *empty != "default" {
		t.Errorf("an empty variable set %q", *empty)
	}
}

func TestApplyNamesTheVariable(t *testing.T) {
	flags := pflag.NewFlagSet("x", pflag.ContinueOnError)
	flags.Int("port", 0, "")
	err := Apply(flags, func(k string) (string, bool) { return "many", k == "TULLE_PORT" })
	if err == nil || !strings.Contains(err.Error(), "TULLE_PORT") {
		t.Errorf("got %v", err)
	}
}
