// Command cluster runs a Kubernetes cluster on this machine until it gets a signal. It needs Linux and root.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/tulle-mesh/tulle/integration/cluster"
)

func main() {
	cluster.MaybeChild()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var o cluster.Options
	var profile, images, manifests string
	f := flag.NewFlagSet("cluster", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.Name, "name", "", "unique name of up to eight letters and digits (default random)")
	f.IntVar(&o.Nodes, "nodes", 2, "number of nodes")
	f.StringVar(&profile, "profile", string(cluster.Quick), "quick, or honest: everything at Kubernetes' own defaults")
	f.StringVar(&o.ProxyMode, "proxy-mode", "nftables", "kube-proxy's mode, nftables or iptables")
	f.BoolVar(&o.NetworkPolicies, "network-policies", false, "have NetworkPolicies enforced, by kube-router")
	f.BoolVar(&o.DualStack, "dual-stack", false, "IPv6 beside IPv4")
	f.StringVar(&images, "images", "", "OCI archives to load, comma separated")
	f.StringVar(&manifests, "manifests", "", "YAML files to apply, comma separated")
	buildOnly := f.Bool("build", false, "only build what a cluster needs")
	clean := f.Bool("clean", false, "only remove what killed clusters left behind")
	if err := f.Parse(args); err != nil {
		return err
	}
	o.Profile, o.Images, o.Manifests = cluster.Profile(profile), list(images), list(manifests)
	o.Log = func(s string) { fmt.Fprintln(stderr, s) }
	if *clean {
		return cluster.Clean()
	}
	if *buildOnly {
		_, err := cluster.Build(ctx, "", o.Log)
		return err
	}
	c, err := cluster.Start(ctx, o)
	if err != nil {
		return err
	}
	defer c.Stop()
	if err := c.WaitDNS(ctx); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "export KUBECONFIG=%s\nexport PATH=%s:$PATH\n", c.Kubeconfig, c.BinDir())
	<-ctx.Done()
	return nil
}

func list(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}
