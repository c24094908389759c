// Command tulle installs the mesh into a cluster, looks after it there and takes it out again; `tulle run` runs the
// whole mesh on one machine without a cluster.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newRoot(os.Stdin, os.Stdout, os.Stderr).ExecuteContext(ctx); err != nil {
		if !errors.Is(err, errDenied) {
			fmt.Fprintln(os.Stderr, "tulle:", err)
		}
		os.Exit(1)
	}
}
