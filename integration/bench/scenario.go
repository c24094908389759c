//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"
)

// scenario is one kind of load, put on several proxies in turn.
type scenario struct {
	name, title string
	spec        spec // what the proxies are to be set up for
	load        load
	targets     []string // the first that is there is what ratios are to
	latency     bool     // the plot is of latency instead of CPU
}

// spec is what a backend or proxy is to be set up for.
type spec struct {
	Up       string // the backend's address
	Protocol string // http, tcp or udp
	Size     int    // of an answer's body in bytes
	HTTP2    bool   // clients speak it, without TLS
	Log      bool   // with the JSON access log
	Services int    // how many the proxy knows; default 1
	Ports    int    // of each service, with a listener each; default 1
	Bare     bool   // of tulle: without the access rule
	Node     string // of tulle: where the backend is, if not on the proxy's own
}

// load puts load on an address until ctx ends.
type load func(ctx context.Context, address string, c *count) error

var (
	all     = []string{"nginx", "haproxy", "traefik", "httputil", "tulle", "direct"}
	serious = []string{"nginx", "haproxy", "traefik", "tulle"}
	kept    = spec{Protocol: "http", Size: 1 << 10}
)

var scenarios = []scenario{
	{name: "keepalive-1k-c1", title: "HTTP/1.1, 1 KiB, one kept connection", spec: kept, load: requests(1), targets: all},
	{name: "keepalive-1k-c16", title: "HTTP/1.1, 1 KiB, 16 kept connections", spec: kept, load: requests(16), targets: all},
	{name: "keepalive-1k-c64", title: "HTTP/1.1, 1 KiB, 64 kept connections", spec: kept, load: requests(64), targets: append(slices.Clone(all), "tulle-bare")},
	{name: "keepalive-1k-c512", title: "HTTP/1.1, 1 KiB, 512 kept connections", spec: kept, load: requests(512), targets: all},
	{name: "access-log", title: "the same with 64 connections and a JSON access log", spec: spec{Protocol: "http", Size: 1 << 10, Log: true}, load: requests(64), targets: all[:5]},
	{name: "keepalive-64k", title: "HTTP/1.1, 64 KiB, 64 kept connections", spec: spec{Protocol: "http", Size: 64 << 10}, load: requests(64), targets: all},
	{name: "services", title: "the same as one of 1, 1,000 and 5,000 services, 1 KiB", spec: kept, load: requests(64), targets: []string{"tulle", "tulle-1000", "tulle-5000"}},
	{name: "connections", title: "HTTP/1.1, 1 KiB, a new connection for each request", spec: kept, load: connections(64), targets: all},
	{name: "h2c", title: "HTTP/2 without TLS, 1 KiB, 64 streams on 4 connections", spec: spec{Protocol: "http", Size: 1 << 10, HTTP2: true}, load: streams(4, 16), targets: serious},
	{name: "rate-1000", title: "HTTP/1.1, 1 KiB, 1,000 requests a second, latency from when each was due", spec: kept, load: paced(1000, 16), targets: all, latency: true},
	{name: "rate-2000", title: "HTTP/1.1, 1 KiB, 2,000 requests a second", spec: kept, load: paced(2000, 64), targets: []string{"traefik", "nginx", "haproxy", "tulle"}},
	{name: "tcp-pingpong", title: "TCP, 64 connections, 64 bytes there and back", spec: spec{Protocol: "tcp"}, load: pingPong(64, 64), targets: []string{"nginx", "haproxy", "traefik", "tulle", "direct"}},
	{name: "tcp-bulk", title: "TCP, 4 connections, 256 KiB there and back", spec: spec{Protocol: "tcp"}, load: pingPong(4, 256<<10), targets: []string{"nginx", "haproxy", "traefik", "tulle", "direct"}},
	{name: "hop", title: "two nodes' proxies, without and with mutual TLS between them, 1 KiB, 64 kept connections", spec: kept, load: requests(64), targets: []string{"two", "two-tls"}},
	{name: "hop-64k", title: "the same with 64 KiB", spec: spec{Protocol: "http", Size: 64 << 10}, load: requests(64), targets: []string{"two", "two-tls"}},
	{name: "hop-connections", title: "the same over TCP, a new connection for each exchange of 64 bytes", spec: spec{Protocol: "tcp"}, load: exchanges(64, 64), targets: []string{"two", "two-tls"}},
	{name: "udp", title: "UDP, 64 flows, 64 bytes there and back", spec: spec{Protocol: "udp"}, load: datagrams(64, 64), targets: []string{"nginx", "traefik", "tulle", "direct"}},
}

// run measures all targets of a scenario, round by round.
func (s scenario) run(ctx context.Context, o options) (*outcome, error) {
	var children sync.WaitGroup
	defer children.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // which ends the children
	s.spec.Services = max(s.spec.Services, 1)
	up, err := child(ctx, &children, "backend", s.spec)
	if err != nil {
		return nil, err
	}
	s.spec.Up = up.address
	out := &outcome{scenario: s}
	for _, name := range s.targets {
		t, err := start(ctx, &children, name, s.spec, o)
		if errors.Is(err, exec.ErrNotFound) {
			fmt.Fprintf(os.Stderr, "%s: %s is not there\n", s.name, name)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if err := ready(ctx, t, s.load); err != nil {
			return nil, fmt.Errorf("%s is not ready: %w", name, err)
		}
		out.targets = append(out.targets, t)
	}
	for round := range o.rounds + 1 { // the first one warms up
		for _, t := range out.targets {
			r, err := measure(ctx, t, s.load, o.round)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", t.name, err)
			}
			if round > 0 {
				t.results = append(t.results, r)
			}
		}
	}
	for _, t := range out.targets {
		t.memory = t.rss()
	}
	return out, nil
}

// ready waits until a target takes the load.
func ready(ctx context.Context, t *target, put load) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var err error
	for range 400 {
		c := &count{}
		brief, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		err = put(brief, t.address, c)
		cancel()
		if err == nil && c.n() > 0 {
			return nil
		}
		<-tick.C
	}
	return errors.Join(err, ctx.Err())
}

// result is one round.
type result struct {
	cpu      time.Duration // of the proxy per request
	kernel   time.Duration // of that, in the kernel
	rate     float64       // requests a second
	p50, p99 time.Duration // latency
}

// measure loads a target for one round.
func measure(ctx context.Context, t *target, put load, length time.Duration) (result, error) {
	before, kernelBefore, err := t.cpu()
	if err != nil {
		return result{}, err
	}
	c := &count{}
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	if err := put(ctx, t.address, c); err != nil {
		return result{}, err
	}
	took := time.Since(begun)
	after, kernelAfter, err := t.cpu()
	if err != nil {
		return result{}, err
	}
	n := time.Duration(c.n())
	if n == 0 {
		return result{}, errors.New("not one request was answered")
	}
	return result{
		cpu: (after - before) / n, kernel: (kernelAfter - kernelBefore) / n,
		rate: float64(n) / took.Seconds(), p50: c.quantile(0.5), p99: c.quantile(0.99),
	}, nil
}
