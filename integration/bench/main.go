//go:build linux

// Command bench compares what a request costs in CPU: through the data plane, through nginx with connections kept to the
// backend (if it is installed), and through httputil.ReverseProxy. The rounds of all of them are interleaved on one
// machine; what counts are the ratios to nginx, not the absolute numbers. Everything runs on the loopback.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"
)

type options struct {
	rounds, conns, size int
	round               time.Duration
	log                 bool
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
		if serve, ok := roles[args[0]]; ok { // a child of this program
			return serve(ctx, args[1:])
		}
	}
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.IntVar(&o.rounds, "rounds", 9, "rounds of each proxy")
	f.IntVar(&o.conns, "c", 64, "keep-alive connections")
	f.IntVar(&o.size, "size", 1024, "bytes of an answer's body")
	f.DurationVar(&o.round, "time", 2*time.Second, "length of a round")
	f.BoolVar(&o.log, "access-log", false, "with the JSON access log")
	if err := f.Parse(args); err != nil {
		return err //nolint:wrapcheck // flag has said it
	}
	var children sync.WaitGroup
	defer children.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // which ends the children
	all, err := start(ctx, o, &children)
	if err != nil {
		return err
	}
	for round := range o.rounds + 1 { // the first one warms up
		for _, t := range all {
			r, err := measure(ctx, t, o)
			if err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			if round > 0 {
				t.results = append(t.results, r)
			}
		}
	}
	return report(out, all)
}

// result is one round.
type result struct {
	cpu  time.Duration // per request
	rate float64       // requests a second
}

// measure loads a target for one round.
func measure(ctx context.Context, t *target, o options) (result, error) {
	before, err := t.cpu()
	if err != nil {
		return result{}, err
	}
	begun := time.Now()
	n, err := load(ctx, t.address, o)
	if err != nil {
		return result{}, err
	}
	took := time.Since(begun)
	after, err := t.cpu()
	if err != nil {
		return result{}, err
	}
	return result{(after - before) / time.Duration(n), float64(n) / took.Seconds()}, nil
}

func report(out io.Writer, all []*target) error {
	base := time.Duration(0)
	for _, t := range all {
		if t.name == "nginx" {
			base = median(t.results, func(r result) time.Duration { return r.cpu })
		}
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "proxy\tCPU per request\tratio to nginx\trequests/s\tRSS\t")
	for _, t := range all {
		cpu := median(t.results, func(r result) time.Duration { return r.cpu })
		ratio := "-"
		if base > 0 {
			ratio = fmt.Sprintf("%.2f", float64(cpu)/float64(base))
		}
		rate := median(t.results, func(r result) float64 { return r.rate })
		fmt.Fprintf(w, "%s\t%v\t%s\t%.0f\t%.1f MiB\t\n", t.name, cpu.Round(100*time.Nanosecond), ratio, rate, float64(t.rss())/(1<<20))
	}
	return w.Flush() //nolint:wrapcheck // standard output
}

func median[T ~int64 | ~float64](results []result, of func(result) T) T {
	var list []T
	for _, r := range results {
		list = append(list, of(r))
	}
	slices.Sort(list)
	return list[len(list)/2]
}
