//go:build linux

package main

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestSlowIsNotHung gives the worker a fraction of the machine for a while: it must not be taken for hung.
func TestSlowIsNotHung(t *testing.T) {
	if os.Getenv("TULLE_SOAK") == "" {
		t.Skip("takes the whole machine for half a minute; set TULLE_SOAK=1")
	}
	c := startController(t)
	s, url := web(t)
	c.publish(t, true, s)
	p := startProxy(t, c, t.TempDir())
	p.waitReady()
	for range 20 * runtime.NumCPU() {
		busy := exec.CommandContext(t.Context(), "sh", "-c", "while :; do :; done")
		if err := busy.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			busy.Process.Kill() //nolint:errcheck // it may have ended
			busy.Wait()         //nolint:errcheck // it was killed
		})
	}
	l := startLoad(url, "web v1")
	start := time.Now()
	for time.Since(start) < 30*time.Second {
		poll(t)
	}
	l.stop()
	t.Logf("%d answers, the longest gap was %v", l.answers, l.gap)
	if strings.Contains(p.log.String(), "worker hangs") || l.refused > 0 {
		t.Errorf("it was taken for hung, or refused connections (%d)", l.refused)
	}
}
