//go:build linux

package main

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/tulle-mesh/tulle/internal/proxy"
)

func resilienceOf(t *testing.T, args ...string) (proxy.Config, error) {
	t.Helper()
	var r resilience
	f := pflag.NewFlagSet("test", pflag.ContinueOnError)
	r.addFlags(f)
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	var c proxy.Config
	r.set(&c)
	return c, r.check()
}

// What a flag turns off must not become the default.
func TestZeroIsOff(t *testing.T) {
	c, err := resilienceOf(t, "--eject-after=0", "--eject-percent=0", "--slow-start=0", "--retry-percent=0", "--retries-per-second=0",
		"--max-connections=0", "--max-requests=0", "--max-connections-per-second=0", "--max-buffered-mib=0")
	if err != nil {
		t.Fatal(err)
	}
	for name, off := range map[string]bool{
		"eject-after": c.Upstream.Ejection.Failures < 0, "eject-percent": c.Upstream.MaxEjected < 0, "slow-start": c.Upstream.SlowStart < 0,
		"retry-percent": c.Retries.Ratio < 0, "retries-per-second": c.Retries.PerSecond < 0, "max-connections": c.Share.Connections < 0,
		"max-requests": c.Share.Requests < 0, "max-connections-per-second": c.Share.Rate < 0, "max-buffered-mib": c.Share.Bytes < 0,
	} {
		if !off {
			t.Errorf("--%s=0 is not off", name)
		}
	}
}

func TestResilienceFlags(t *testing.T) {
	c, err := resilienceOf(t, "--eject-after=3", "--eject-for=1s", "--eject-for-most=1m", "--retry-percent=50", "--max-connections=1000000000")
	if err != nil {
		t.Fatal(err)
	}
	e := c.Upstream.Ejection
	if e.Failures != 3 || e.Least != time.Second || e.Most != time.Minute || c.Retries.Ratio != 0.5 || c.Retries.PerSecond != 10 {
		t.Errorf("%+v, %+v", e, c.Retries)
	}
	if c.Share.Connections < 1 || c.Share.Connections >= 1000000000 {
		t.Errorf("%d connections are more than files", c.Share.Connections)
	}
	if c.Share.Bytes != 256<<20 {
		t.Errorf("%d bytes may be buffered", c.Share.Bytes)
	}
	for _, wrong := range []string{
		"--eject-after=-1", "--eject-percent=101", "--eject-for=0", "--eject-for-most=1s", "--slow-start=-1s", "--retry-percent=-1",
		"--retries-per-second=-1", "--max-connections=-1", "--max-requests=-1", "--max-connections-per-second=-1",
		"--max-buffered-mib=-1", "--max-buffered-mib=1048577",
	} {
		name, _, _ := strings.Cut(wrong, "=")
		if _, err := resilienceOf(t, wrong); err == nil || !strings.Contains(err.Error(), strings.TrimSuffix(name, "-most")) {
			t.Errorf("%s: %v", wrong, err)
		}
	}
}

// What is buffered is bounded by the memory that there is.
func TestWithinMemory(t *testing.T) {
	for _, c := range []struct {
		buffered int
		limit    int64
		want     int
	}{
		{256 << 20, math.MaxInt64, 256 << 20},
		{256 << 20, 2 << 30, 256 << 20},
		{256 << 20, 600 << 20, 200 << 20},
		{0, 512 << 20, 0},
		{256 << 20, 0, 1},
	} {
		if got := withinMemory(c.buffered, c.limit); got != c.want {
			t.Errorf("%d of %d: %d, want %d", c.buffered, c.limit, got, c.want)
		}
	}
}
