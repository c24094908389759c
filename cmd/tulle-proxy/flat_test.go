//go:build linux

package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"time"
)

// flatServices is how many services the proxy has besides those that are called most.
const flatServices = 5000

// TestMemoryStaysFlat puts load, churn and misbehaving clients on a proxy, all at once and for as long as TULLE_FLAT says,
// and looks at what it holds: its memory must not grow, and when all is over, memory, goroutines and files must be what
// they were before. Nobody who behaves may notice anything.
func TestMemoryStaysFlat(t *testing.T) {
	if os.Getenv("TULLE_FLAT") == "" {
		t.Skip("takes a minute of the whole machine: make flat")
	}
	length, err := time.ParseDuration(os.Getenv("TULLE_FLAT"))
	if err != nil {
		t.Fatal(err)
	}
	c := startController(t)
	b := startFlatBackends(t)
	m := newFlatMesh(t, c, b)
	p := startProxy(t, c, t.TempDir(), "--identity", "off")
	p.waitReady()
	first := &watched{name: "worker", pid: p.status().PID}
	both := []*watched{first, {name: "holder", pid: p.cmd.Process.Pid}}
	l := newFlatLoad(m, p.dns)
	before := p.holds(both)
	for i := range flatCalled { // what is kept of each service that is called is no leak
		if err := l.get(t.Context(), l.plain, m.many(i), "/"); err != nil {
			t.Fatal(err)
		}
	}
	before.heap = p.holds(both).heap

	ctx, cancel := context.WithCancel(t.Context()) // without a deadline, which dialing would see first
	defer time.AfterFunc(length, cancel).Stop()
	var wg sync.WaitGroup
	wg.Go(func() { m.churn(ctx) })
	wg.Go(func() { l.behave(ctx) })
	wg.Go(func() { misbehave(ctx, m) })
	p.watch(ctx, both, length/60)
	wg.Wait()
	l.close()
	b.close()
	m.reset()

	for _, w := range both {
		early, late := w.halves()
		t.Logf("%s: %s in the second quarter and %s in the last, at most %s", w.name, mebibytes(early), mebibytes(late), mebibytes(w.most()))
		if late-early > allowance(early) {
			t.Errorf("the memory of the %s grows:\n%s", w.name, w)
		}
	}
	l.report(t, length)
	t.Logf("%d changes of the config; %v of CPU", m.changes.Load(), usedCPU(t, first.pid))
	if now := p.status(); now.PID != first.pid || now.Refused > 0 {
		t.Errorf("the worker is another one, or did not take its config: %+v", now)
	}
	after := p.holds(both)
	for start := time.Now(); !after.within(before) && time.Since(start) < time.Minute; after = p.holds(both) {
		poll(t) // for connections to be found closed
	}
	t.Logf("before: %v; after: %v", before, after)
	if !after.within(before) {
		_, stacks, _ := get("http://" + p.admin + "/debug/pprof/goroutine?debug=1")
		t.Errorf("something is left: %v before, %v after\n%s", before, after, stacks)
	}
}

// watched is a process whose memory is looked at.
type watched struct {
	name    string
	pid     int
	samples []int64 // bytes resident
}

func (p *proxyProcess) watch(ctx context.Context, all []*watched, every time.Duration) {
	p.t.Helper()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if code, _, err := get("http://" + p.metrics + "/metrics"); err != nil || code != http.StatusOK { // as Prometheus would
			p.t.Errorf("metrics: %d, %v", code, err)
		}
		for _, w := range all {
			w.samples = append(w.samples, residentBytes(p.t, w.pid))
		}
	}
}

func (w *watched) halves() (early, late int64) {
	n := len(w.samples) / 4
	return median(w.samples[n : 2*n]), median(w.samples[3*n:])
}

func (w *watched) most() int64 { return slices.Max(w.samples) }

func (w *watched) String() string {
	var s []string
	for _, n := range w.samples {
		s = append(s, fmt.Sprint(n>>20))
	}
	return fmt.Sprint(s)
}

func median(of []int64) int64 {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[len(sorted)/2]
}

// allowance is by how much memory may differ in two quarters of a load: the garbage collector lets the heap become twice
// as large as what is in use, and when it does is chance.
func allowance(of int64) int64 { return max(of/10, 16<<20) }

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
