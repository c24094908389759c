//go:build linux

package main

import (
	"os"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	linux "golang.org/x/sys/unix"
)

const (
	tenantBound = 1.20   // the quiet tenant's p99 beside a flood, of that beside the control
	tenantTimes = 10     // what the flood offers, of what the proxy can serve
	tenantFiles = 12_000 // that a proxy of 5,000 connections, with as many to endpoints, may have to open
)

// TestTenantsAreApart lets one namespace flood a proxy that has a CPU of its own, by far more than it can serve, and looks
// at what another one notices: no error, and a p99 as if the same load went somewhere else. Clients, backends and the sink
// share another CPU, so that what they take from each other is in both. TULLE_TENANT_ROUNDS says how many pairs of rounds
// there are, TULLE_TENANT_TIME how long one is.
func TestTenantsAreApart(t *testing.T) {
	if os.Getenv("TULLE_TENANT_ROUNDS") == "" {
		t.Skip("takes a minute of two CPUs: make tenants")
	}
	rounds, err := strconv.Atoi(os.Getenv("TULLE_TENANT_ROUNDS"))
	if err != nil || rounds < 1 {
		t.Fatalf("TULLE_TENANT_ROUNDS: want a number of rounds: %v", err)
	}
	length := 3 * time.Second
	if s := os.Getenv("TULLE_TENANT_TIME"); s != "" {
		if length, err = time.ParseDuration(s); err != nil || length < time.Second {
			t.Fatalf("TULLE_TENANT_TIME: want 1s or more: %v", err)
		}
	}
	proxyCPU, otherCPU := tenantCPUs(t)
	enoughFiles(t)
	pinTest(t, otherCPU)
	r := newTenantRig(t, proxyCPU, length)
	r.saturate()
	t.Log(r.round(alone))
	var control, flooded []time.Duration
	for i := range rounds {
		order := []tenantKind{controlled, flood10}
		if i%2 == 1 {
			slices.Reverse(order)
		}
		for _, kind := range order {
			o := r.round(kind)
			t.Logf("pair %d, %v", i+1, o)
			o.check(t, r)
			if kind == controlled {
				control = append(control, o.quiet.P99)
			} else {
				flooded = append(flooded, o.quiet.P99)
			}
		}
	}
	ratio := p99Ratio(flooded, control)
	t.Logf("verdict: the median p99 beside the flood is %.2f times that of the control, at most %.2f is allowed", ratio, tenantBound)
	if ratio > tenantBound {
		t.Errorf("the flood moves the other tenant's p99: %v beside it, %v beside the control", flooded, control)
	}
}

// tenantCPUs are two CPUs that the test may use.
func tenantCPUs(t *testing.T) (proxy, others int) {
	t.Helper()
	var set linux.CPUSet
	if err := linux.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	if set.Count() < 2 {
		t.Skipf("needs two CPUs, one for the proxy alone; there is %d of the machine's %d", set.Count(), runtime.NumCPU())
	}
	var all []int
	for cpu := range len(set) * 64 {
		if set.IsSet(cpu) {
			all = append(all, cpu)
		}
	}
	return all[0], all[1]
}

// enoughFiles fails where the proxy would have to refuse the flood for want of files.
func enoughFiles(t *testing.T) {
	t.Helper()
	var limit linux.Rlimit
	if err := linux.Getrlimit(linux.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	t.Logf("files: each process may open %d, and raises that to %d by itself", limit.Cur, limit.Max)
	if limit.Max < tenantFiles {
		t.Fatalf("each process may open %d files at most, the test needs %d: ulimit -Hn", limit.Max, tenantFiles)
	}
}

func p99Ratio(flooded, control []time.Duration) float64 {
	return float64(middle(flooded)) / float64(middle(control))
}

func middle(of []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(of))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// One round of three that something else disturbed is not the verdict; a flood that moves the others is.
func TestP99RatioIsOfMedians(t *testing.T) {
	for name, tc := range map[string]struct {
		flooded, control []time.Duration
		apart            bool
	}{
		"alike":                       {[]time.Duration{10, 11, 10}, []time.Duration{10, 10, 11}, true},
		"at the bound":                {[]time.Duration{12}, []time.Duration{10}, true},
		"one disturbed round":         {[]time.Duration{10, 90, 10}, []time.Duration{10, 10, 11}, true},
		"one disturbed control":       {[]time.Duration{13, 13, 13}, []time.Duration{90, 10, 10}, false},
		"moved":                       {[]time.Duration{13, 12, 14}, []time.Duration{10, 10, 11}, false},
		"an even number, half better": {[]time.Duration{10, 16}, []time.Duration{10, 10}, false},
	} {
		if ratio := p99Ratio(tc.flooded, tc.control); (ratio <= tenantBound) != tc.apart {
			t.Errorf("%s: %.2f", name, ratio)
		}
	}
}
