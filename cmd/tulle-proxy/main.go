//go:build linux

// Command tulle-proxy is what runs in the proxy's pods: PID 1 is the holder, which keeps the listening sockets, and
// `tulle-proxy worker`, which it starts, is the data plane and the mesh's DNS.
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
		fmt.Fprintln(os.Stderr, "tulle-proxy:", err)
		os.Exit(1)
	}
}
