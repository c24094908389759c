package main

import (
	"bytes"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/tulle-mesh/tulle/internal/flagenv"
	"github.com/tulle-mesh/tulle/internal/topology"
)

func complete(t *testing.T, env map[string]string, args ...string) (*command, error) {
	t.Helper()
	o := &options{process: process{component: "controller", stderr: io.Discard}}
	flags := parse(t, o.addFlags, args)
	if err := flagenv.Apply(flags, func(k string) (string, bool) { v, ok := env[k]; return v, ok }); err != nil {
		return nil, err
	}
	return o.complete()
}

// parse gives a process its flags.
func parse(t *testing.T, addFlags func(*pflag.FlagSet), args []string) *pflag.FlagSet {
	t.Helper()
	flags := pflag.NewFlagSet("x", pflag.ContinueOnError)
	addFlags(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return flags
}

func TestDefaults(t *testing.T) {
	c, err := complete(t, map[string]string{"TULLE_POD_NAME": "c-1", "TULLE_POD_NAMESPACE": "mesh-system", "TULLE_POD_IP": "10.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	if c.podName != "c-1" || c.shadow.Namespace != "mesh-system" || c.topology.MeshNamespace != "mesh-system" || c.names.Zones[0] != "mesh" {
		t.Errorf("%+v", c)
	}
	if c.shadow.SharedHTTP || c.shadow.Local || c.topology.DefaultMode != topology.HTTP || c.topology.IgnoreNamespaces[0] != "kube-system" {
		t.Errorf("%+v", c)
	}
	if c.lease != 12*time.Second {
		t.Errorf("lease %v", c.lease)
	}
}

func TestFlags(t *testing.T) {
	c, err := complete(t, map[string]string{"TULLE_DEFAULT_MODE": "tcp", "TULLE_ADDRESSES_HTTP": "dedicated"},
		"--zones=Mesh.,traefik.mesh", "--addresses-http=shared", "--first-hop=local", "--endpoints-allow=10.0.0.1,10.1.2.3/16,fd00::/8",
		"--endpoints-foreign-pods",
		"--access-default=enforce", "--access-minimum=audit", "--access-client-reason=none", "--trust-domain=Example.org", "--identity-lifetime=5s")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(c.names.Zones, " ") != "mesh traefik.mesh" || !c.shadow.SharedHTTP || !c.shadow.Local || c.topology.DefaultMode != topology.TCP || !c.topology.ForeignPods {
		t.Errorf("%+v", c)
	}
	if c.topology.AccessDefault != topology.AccessEnforce || c.topology.AccessMinimum != topology.AccessAudit || c.names.ReasonDetail != "none" || c.names.TrustDomain != "example.org" || c.identityLifetime != 5*time.Second {
		t.Errorf("access control: %+v, %+v", c.topology, c.names)
	}
	want := []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::/8")}
	for i, p := range c.topology.AllowedEndpoints {
		if p != want[i] {
			t.Errorf("allowed %v", c.topology.AllowedEndpoints)
		}
	}
}

func TestBadFlagsAreNamed(t *testing.T) {
	for _, arg := range []string{
		"--addresses-http=both", "--first-hop=", "--default-mode=udp", "--zones=a_b", "--zones=", "--endpoints-allow=10.0.0.0/33", "--pod-cidrs=x",
		"--service-cidrs=1.2.3", "--log-level=loud", "--log-format=xml", "--lease-renew=20s", "--lease-retry=8s", "--slice-size=0", "--slice-size=1001",
		"--access-default=on", "--access-minimum=", "--access-client-reason=all", "--trust-domain=a_b", "--identity-lifetime=10ms",
		"--engine=envoy",
	} {
		name := strings.TrimPrefix(arg[:strings.Index(arg, "=")], "--")
		if _, err := complete(t, nil, arg); err == nil || !strings.Contains(err.Error(), "--"+name) {
			t.Errorf("%s: %v", arg, err)
		}
	}
	if _, err := complete(t, map[string]string{"TULLE_LEASE_RETRY": "soon"}); err == nil || !strings.Contains(err.Error(), "TULLE_LEASE_RETRY") {
		t.Errorf("got %v", err)
	}
}

func TestHelpSaysTheFlags(t *testing.T) {
	var out bytes.Buffer
	if err := newRoot([]string{"--help"}, &out, &out).ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "--addresses-http") || !strings.Contains(out.String(), "TULLE_LOG_LEVEL") {
		t.Error(out.String())
	}
}
