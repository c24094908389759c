// Command tulle-controller watches a Kubernetes cluster, gives the mesh's proxies their config and, on one of its
// replicas, writes what the cluster has to hold for the mesh.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newRoot(os.Args[1:], os.Stdout, os.Stderr).ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "tulle-controller:", err)
		os.Exit(1)
	}
}
