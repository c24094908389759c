// Command testtool is server and client of the tests that need a cluster: a static program in an image of its own.
// Its clients print JSON, see package report, and end with 0 whatever the outcome was: the test judges it.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "testtool:", err)
		os.Exit(1)
	}
}

// command is given the arguments after its name.
type command func(ctx context.Context, args []string, out io.Writer) error

func commands() map[string]command {
	return map[string]command{
		"serve": serve, "sleep": sleep, "get": get, "tcp": tcp, "udp": udp, "ws": ws,
		"calls": calls, "hold": hold, "load": load, "stop": stopLoad, "resolve": resolve, "cat": cat,
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		args = []string{"serve"}
	}
	c, ok := commands()[args[0]]
	if !ok {
		var names []string
		for n := range commands() {
			names = append(names, n)
		}
		slices.Sort(names)
		return fmt.Errorf("unknown command %q: want one of %s", args[0], strings.Join(names, " "))
	}
	return c(ctx, args[1:], out)
}

// sleep keeps a pod alive whose commands come by exec.
func sleep(ctx context.Context, _ []string, _ io.Writer) error {
	<-ctx.Done()
	return nil
}

func cat(_ context.Context, files []string, out io.Writer) error {
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		if _, err := out.Write(b); err != nil {
			return err
		}
	}
	return nil
}

func printJSON(out io.Writer, v any) error {
	return json.NewEncoder(out).Encode(v)
}
