//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// others are what is measured without a load.
var others = []struct {
	name    string
	measure func(context.Context) (*outcome, error)
}{{"decisions", measureDecisions}, {"sizes", measureSizes}, {"idle", measureIdle}}

// measureSizes is what services cost when nothing happens, and when one of them changes.
func measureSizes(ctx context.Context) (*outcome, error) {
	rows := [][]string{{"services", "ports of each", "set up in", "one service's change", "memory, idle"}}
	for _, n := range [][2]int{{1, 1}, {100, 1}, {1000, 1}, {5000, 1}, {4900, 4}} { // files are 20,000 with the usual limit
		row, err := sizeOf(ctx, n[0], n[1])
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return &outcome{scenario: scenario{name: "sizes", title: "what services cost when idle, and when one changes"}, rows: rows}, nil
}

func sizeOf(ctx context.Context, services, ports int) ([]string, error) {
	var children sync.WaitGroup
	defer children.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t, err := child(ctx, &children, "sizes", spec{Up: "127.0.0.1:9", Protocol: "http", Services: services, Ports: ports})
	if err != nil {
		return nil, err
	}
	setUp, change, found := strings.Cut(t.address, " ")
	if !found {
		return nil, errors.New("no figures")
	}
	var least int64
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range 30 { // the collector gives back what setting up took
		least = t.rss()
		<-tick.C
	}
	return []string{fmt.Sprint(services), fmt.Sprint(ports), setUp, change, mebibytes(least)}, nil
}

// idleConnections is how many connections are held: as many as a process may have that has two sockets for each, or less.
func idleConnections() (int, error) {
	const most, others = 10_000, 200
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return 0, err
	}
	return int(min(most, (files.Cur-others)/2)), nil // #nosec G115
}

// measureIdle is what connections cost on which nothing happens after a first exchange.
func measureIdle(ctx context.Context) (*outcome, error) {
	n, err := idleConnections()
	if err != nil {
		return nil, err
	}
	rows := [][]string{{"connections", "memory before", "memory then", "each"}}
	for _, kind := range []struct {
		name string
		spec spec
		say  string
	}{
		{"HTTP/1.1", spec{Protocol: "http", Size: 2, Services: 1}, again},
		{"TCP", spec{Protocol: "tcp", Services: 1}, "hello"},
	} {
		row, err := idleOf(ctx, n, kind.spec, kind.say)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", kind.name, err)
		}
		rows = append(rows, append([]string{fmt.Sprintf("%d %s", n, kind.name)}, row...))
	}
	return &outcome{scenario: scenario{name: "idle", title: "what idle connections cost"}, rows: rows}, nil
}

func idleOf(ctx context.Context, n int, s spec, say string) ([]string, error) {
	var children sync.WaitGroup
	defer children.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	up, err := child(ctx, &children, "backend", s)
	if err != nil {
		return nil, err
	}
	s.Up = up.address
	t, err := child(ctx, &children, "tulle", s)
	if err != nil {
		return nil, err
	}
	before := t.rss()
	b := make([]byte, 4<<10)
	for range n {
		c, err := net.Dial("tcp", t.address) //nolint:noctx // the loopback
		if err != nil {
			return nil, err
		}
		defer c.Close()
		if _, err := c.Write([]byte(say)); err != nil {
			return nil, err
		}
		if _, err := c.Read(b); err != nil {
			return nil, err
		}
	}
	after := t.rss()
	return []string{mebibytes(before), mebibytes(after), fmt.Sprintf("%.1f KiB", float64(after-before)/float64(n)/1024)}, nil
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
