//go:build unix

package traefik_test

import (
	"syscall"
	"testing"
	"time"
)

// cpu is the time that this process has had on processors: what others do on the machine doesn't count.
func cpu(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
