package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"sync"
	"time"
)

// load calls at a constant rate, whatever the answers: for some time, until SIGTERM, or until the command stop. It never
// repeats a call. A latency counts from when the call was due.
func load(ctx context.Context, args []string, out io.Writer) error {
	var h httpFlags
	f := flag.NewFlagSet("load", flag.ContinueOnError)
	h.register(f)
	rate := f.Float64("rate", 100, "calls a second")
	duration := f.Duration("duration", 0, "0 is until told to stop")
	parallel := f.Int("c", 200, "most calls at once, in equal parts to each target, and one to each at least; one that would be more fails")
	perConn := f.Int("per-conn", 100, "HTTP requests on a connection before a new one is opened; 1 is without keep-alive")
	name := f.String("name", "load", "what the command stop calls it")
	if err := f.Parse(args); err != nil {
		return err
	}
	targets, err := expandTargets(f.Args())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if *duration > 0 {
		ctx, cancel = context.WithTimeout(ctx, *duration)
		defer cancel()
	}
	if err := stopOnCall(ctx, *name, cancel); err != nil {
		return err
	}
	g := newGenerator(&h, targets, *parallel, *perConn)
	g.run(ctx, time.Duration(float64(time.Second) / *rate))
	return printJSON(out, g.tally.summary())
}

// generator starts the calls; a caller makes one at a time, always to the same target, and keeps its connection.
type generator struct {
	flags   *httpFlags
	targets []target
	perConn int
	tally   *tally
	idle    []chan *caller // by target; who has waited longest is next
	wg      sync.WaitGroup
}

func newGenerator(h *httpFlags, targets []target, parallel, perConn int) *generator {
	g := &generator{flags: h, targets: targets, perConn: perConn, tally: newTally(), idle: make([]chan *caller, len(targets))}
	each := max(parallel/len(targets), 1)
	for i := range g.idle {
		g.idle[i] = make(chan *caller, each)
		for range each {
			g.idle[i] <- &caller{}
		}
	}
	return g
}

func (g *generator) run(ctx context.Context, every time.Duration) {
	begin := time.Now()
	for i := 0; ; i++ {
		due := begin.Add(time.Duration(i) * every)
		select {
		case <-ctx.Done():
			g.wg.Wait()
			return
		case <-time.After(time.Until(due)):
		}
		t, idle := g.targets[i%len(g.targets)], g.idle[i%len(g.targets)]
		select {
		case c := <-idle:
			g.wg.Go(func() {
				// A call that has begun is finished after the end, too.
				g.tally.add(due, t.call(context.WithoutCancel(ctx), c, g))
				idle <- c
			})
		default:
			g.tally.add(due, outcome{err: errors.New("too many calls at once")})
		}
	}
}

// controlSocket is in the pod's network namespace, so that it needs no file system.
func controlSocket(name string) string { return "@testtool-" + name }

func stopOnCall(ctx context.Context, name string, stop func()) error {
	ln, err := net.Listen("unix", controlSocket(name))
	if err != nil {
		return fmt.Errorf("load %s is running already: %w", name, err)
	}
	context.AfterFunc(ctx, func() { ln.Close() })
	go func() {
		if c, err := ln.Accept(); err == nil {
			c.Close()
			stop()
		}
	}()
	return nil
}

// stopLoad ends a load in the same pod, which then prints its summary.
func stopLoad(ctx context.Context, args []string, _ io.Writer) error {
	name := "load"
	if len(args) > 0 {
		name = args[0]
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", controlSocket(name))
	if err != nil {
		return err
	}
	return c.Close()
}

// expandTargets understands {from-to} in a URL: one target for each number.
func expandTargets(urls []string) ([]target, error) {
	if len(urls) == 0 {
		return nil, errors.New("load: no URL")
	}
	braces := regexp.MustCompile(`\{(\d+)-(\d+)\}`)
	var targets []target
	for _, u := range urls {
		all := []string{u}
		if m := braces.FindStringSubmatchIndex(u); m != nil {
			from, err1 := strconv.Atoi(u[m[2]:m[3]])
			to, err2 := strconv.Atoi(u[m[4]:m[5]])
			if err := errors.Join(err1, err2); err != nil {
				return nil, err
			}
			all = nil
			for i := from; i <= to; i++ {
				all = append(all, u[:m[0]]+strconv.Itoa(i)+u[m[1]:])
			}
		}
		for _, s := range all {
			t, err := parseTarget(s)
			if err != nil {
				return nil, err
			}
			targets = append(targets, t)
		}
	}
	return targets, nil
}
