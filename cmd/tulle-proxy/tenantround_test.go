//go:build linux

package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// The flood's connections: 5,000.
const (
	greedy     = 4000
	slowHeads  = 250
	slowBodies = 250
	resetters  = 500
	resets     = 2000 // a second
)

// tenantKind says where the load goes in a round.
type tenantKind string

const (
	alone      tenantKind = "alone"   // there is none
	controlled tenantKind = "control" // to the sink
	flood10    tenantKind = "flood"   // to the proxy
)

// tenantRound is what came of a round.
type tenantRound struct {
	kind        tenantKind
	quiet       quietResult
	begin, end  loudResult
	offered     float64 // times what the saturated proxy serves in that time
	connections int     // of the loud tenant's, that the proxy has
	busy, load  float64 // CPUs that the proxy took, and those that make and take the load
	resident    int64
}

// round measures the quiet tenant while the other has all of its connections.
func (r *tenantRig) round(kind tenantKind) tenantRound {
	r.t.Helper()
	o := tenantRound{kind: kind}
	var load *loudChild
	if kind != alone {
		to := map[tenantKind]string{controlled: r.drain, flood10: r.loud}[kind]
		load = r.startLoud(r.flood(to))
	}
	q := startRole(r.t, "quiet", &quiet{
		Address: r.quiet, From: r.quietCaller, Body: r.quietBody, Rate: 500, Connections: 16, Every: 25, For: r.length,
	}, ownNice)
	var warm bool
	q.hear(&warm)
	if load != nil {
		o.begin = load.now()
	}
	begun, cpu, loadCPU := time.Now(), usedCPU(r.t, r.worker), r.usedByLoad(load)
	wait(r.t.Context(), r.length)
	took := time.Since(begun).Seconds()
	o.busy, o.load = (usedCPU(r.t, r.worker)-cpu).Seconds()/took, (r.usedByLoad(load)-loadCPU).Seconds()/took
	if load != nil {
		o.end = load.now()
		took := o.end.At.Sub(o.begin.At).Seconds()
		o.offered = float64(o.begin.Waiting+o.end.Sent-o.begin.Sent) / (r.saturated * took)
	}
	q.hear(&o.quiet)
	if kind == flood10 {
		o.connections = r.connections()
	}
	o.resident = residentBytes(r.t, r.worker) + residentBytes(r.t, r.proxy.cmd.Process.Pid)
	if load != nil {
		load.end()
		r.settle()
	}
	return o
}

func (r *tenantRig) flood(to string) *loud {
	return &loud{
		Address: to, From: r.loudCaller, Greedy: greedy, Depth: r.depth, Pause: 500 * time.Millisecond,
		SlowHeads: slowHeads, SlowBodies: slowBodies, Resetters: resetters, Resets: resets,
	}
}

// usedByLoad is the CPU time of the loud tenant's client and backend, and of the sink.
func (r *tenantRig) usedByLoad(client *loudChild) time.Duration {
	r.t.Helper()
	sum := usedCPU(r.t, r.backend.cmd.Process.Pid)
	if r.sink != nil {
		sum += usedCPU(r.t, r.sink.cmd.Process.Pid)
	}
	if client != nil {
		sum += usedCPU(r.t, client.cmd.Process.Pid)
	}
	return sum
}

// startLoud starts a load and waits until it has its connections and has filled them.
func (r *tenantRig) startLoud(l *loud) *loudChild {
	r.t.Helper()
	c := &loudChild{startRole(r.t, "loud", l, loudNice)}
	var now loudResult
	defer func() {
		if r.t.Failed() {
			r.t.Logf("the load is: %+v", now)
		}
	}()
	eventually(r.t, "the load has its connections", func() bool {
		now = c.now()
		return now.Open >= l.most() && now.Sent >= int64(l.Greedy*l.Depth)
	})
	return c
}

// check fails for a round that shows an error, and for one that shows nothing.
func (o tenantRound) check(t *testing.T, r *tenantRig) {
	t.Helper()
	if o.quiet.Errors > 0 {
		t.Errorf("%s: %d errors of the quiet tenant, the first are: %s", o.kind, o.quiet.Errors, strings.Join(o.quiet.First, "; "))
	}
	if l := r.flood(""); o.kind != alone && min(o.begin.Open, o.end.Open) < l.held() {
		t.Errorf("%s: the load had %d connections at first and %d in the end", o.kind, o.begin.Open, o.end.Open)
	}
	if did := o.end.Resets - o.begin.Resets; o.kind != alone && did < int64(resets*r.length.Seconds()/2) {
		t.Errorf("%s: there were %d resets", o.kind, did)
	}
	if o.kind == flood10 && o.offered < tenantTimes {
		t.Errorf("%s: the load was %.1f times what the proxy can serve, want %d", o.kind, o.offered, tenantTimes)
	}
	if pid := r.proxy.status().PID; pid != r.worker {
		t.Errorf("%s: the worker is another one", o.kind)
	}
}

func (o tenantRound) String() string {
	q := o.quiet
	s := fmt.Sprintf("%-7s: p50 %s, p99 %s, max %s, %d requests, %d errors", o.kind,
		milliseconds(q.P50), milliseconds(q.P99), milliseconds(q.Max), q.Requests, q.Errors)
	if o.kind == alone {
		return s
	}
	took := o.end.At.Sub(o.begin.At).Seconds()
	rate := func(of func(loudResult) int64) float64 { return float64(of(o.end)-of(o.begin)) / took }
	s += fmt.Sprintf("; load: %.0f%% of a CPU, %d connections, %d requests waited at first, %.0f a second came; answers a second: %.0f 200, %.0f 503, %.0f others; "+
		"%.0f resets a second, %.0f of them answered; %s of long bodies; %d broken and %d not connected in all",
		100*o.load, o.end.Open, o.begin.Waiting, rate(func(l loudResult) int64 { return l.Sent }),
		rate(func(l loudResult) int64 { return l.Served }), rate(func(l loudResult) int64 { return l.Refused }), rate(func(l loudResult) int64 { return l.Other }),
		rate(func(l loudResult) int64 { return l.Resets }), rate(func(l loudResult) int64 { return l.Once }),
		mebibytes(o.end.LongBytes), o.end.Broken, o.end.Unconnected)
	if o.kind == flood10 {
		s += fmt.Sprintf("; offered %.1f times what the proxy can serve, on %d connections where %d saturate it, %d of all at the proxy, which took %.0f%% of its CPU; resident %s, GOMEMLIMIT %s",
			o.offered, greedy, saturating, o.connections, 100*o.busy, mebibytes(o.resident), mebibytes(tenantMemory))
	}
	return s
}

// loudChild answers how its load is.
type loudChild struct{ *tenantChild }

func (c *loudChild) now() loudResult {
	c.t.Helper()
	if _, err := c.in.Write([]byte("\n")); err != nil {
		c.t.Fatalf("the load has ended: %v", err)
	}
	var r loudResult
	c.hear(&r)
	return r
}

// milliseconds is a duration as it is printed.
func milliseconds(d time.Duration) string { return fmt.Sprintf("%.2f ms", d.Seconds()*1000) }
