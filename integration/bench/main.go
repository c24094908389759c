//go:build linux

// Command bench compares what a request costs: through the data plane, through nginx, HAProxy and stock Traefik (those
// that are there), through httputil.ReverseProxy, and without a proxy. The rounds of all of them are interleaved on one
// machine, everything on the loopback; what counts are the ratios within a round, not the absolute numbers. With -write
// the results become docs/performance.md's tables and plots.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

type options struct {
	rounds  int
	round   time.Duration
	only    *regexp.Regexp
	traefik string
	write   string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 0 {
		if role, ok := roles[args[0]]; ok { // a child of this program
			return role(ctx, args[1])
		}
	}
	o := options{only: regexp.MustCompile("")}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.IntVar(&o.rounds, "rounds", 9, "rounds of each proxy")
	f.DurationVar(&o.round, "time", time.Second, "length of a round")
	f.StringVar(&o.traefik, "traefik", "", "stock Traefik v2's program")
	f.StringVar(&o.write, "write", "", "the page whose results are to be replaced, with its plots beside it")
	f.Func("run", "regular expression: only scenarios whose names it fits", func(s string) (err error) {
		o.only, err = regexp.Compile(s)
		return err
	})
	if err := f.Parse(args); err != nil {
		return err
	}
	var done []*outcome
	for _, s := range scenarios {
		if !o.only.MatchString(s.name) {
			continue
		}
		r, err := s.run(ctx, o)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		r.print(out)
		done = append(done, r)
	}
	for _, other := range others {
		if !o.only.MatchString(other.name) {
			continue
		}
		r, err := other.measure(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", other.name, err)
		}
		r.print(out)
		done = append(done, r)
	}
	if o.write != "" {
		return write(o.write, done)
	}
	return nil
}
