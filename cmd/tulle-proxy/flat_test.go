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
		if len(w.samples) < 20 {
			t.Fatalf("the machine is too busy to say anything: %d samples", len(w.samples))
		}
		t.Log(w)
		if w.grows(length) {
			t.Errorf("the memory of the %s grows: %d", w.name, w.samples)
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

// quarters are what was usual in the second quarter of the time and in the last. In the first, all is new.
func (w *watched) quarters() (second, last int64) {
	n := len(w.samples) / 4
	return median(w.samples[n : 2*n]), median(w.samples[3*n:])
}

// grows compares quarters. The garbage collector lets the heap become twice as large as what is in use, and when it does is
// chance, the more so the shorter it is watched: hence the allowance. What is left at the end has a narrower one.
func (w *watched) grows(length time.Duration) bool {
	second, last := w.quarters()
	allowance := max(second/10, 16<<20)
	if length < 5*time.Minute {
		allowance *= 2
	}
	return last-second > allowance
}

func (w *watched) String() string {
	second, last := w.quarters()
	return fmt.Sprintf("%s: %s in the second quarter and %s in the last, at most %s, %d samples",
		w.name, mebibytes(second), mebibytes(last), mebibytes(slices.Max(w.samples)), len(w.samples))
}

// What grows is told from what goes up and down.
func TestGrowthIsSeen(t *testing.T) {
	for name, tc := range map[string]struct {
		at   func(i int) int64 // MiB
		want bool
	}{
		"steady":            {func(int) int64 { return 120 }, false},
		"up and down":       {func(i int) int64 { return 110 + int64(i*37%20) }, false},
		"grows at first":    {func(i int) int64 { return 80 + int64(min(i, 15))*3 }, false},
		"grows all along":   {func(i int) int64 { return 100 + int64(i) }, true},
		"grows, and sinks":  {func(i int) int64 { return 100 + int64(i) - int64(i%5)*2 }, true},
		"grows in the end":  {func(i int) int64 { return 120 + int64(max(i, 40)-40)*3 }, true},
		"a large one grows": {func(i int) int64 { return 400 + int64(i) }, false},
	} {
		w := watched{name: "proxy"}
		for i := range 60 {
			w.samples = append(w.samples, tc.at(i)<<20)
		}
		if w.grows(10*time.Minute) != tc.want {
			t.Errorf("%s: %v", name, &w)
		}
	}
}

func median(of []int64) int64 {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[len(sorted)/2]
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
