//go:build linux

package main

import (
	"errors"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/tulle-mesh/tulle/internal/proxy"
)

// resilience are the flags about endpoints that fail, retries, and what the node's namespaces may use.
type resilience struct {
	ejectAfter, ejectPercent       int
	ejectFor, ejectForMost         time.Duration
	slowStart                      time.Duration
	retryPercent, retriesPerSecond float64
	maxConnections, maxRequests    int
	connectionsPerSecond           int
	maxBuffered                    int // MiB
}

func (r *resilience) addFlags(f *pflag.FlagSet) {
	f.IntVar(&r.ejectAfter, "eject-after", 5, "failures in a row after which an endpoint is set aside; 0 = never")
	f.DurationVar(&r.ejectFor, "eject-for", 10*time.Second, "how long an endpoint is set aside; every further time in a row lasts twice as long")
	f.DurationVar(&r.ejectForMost, "eject-for-most", 5*time.Minute, "how long an endpoint is set aside at most")
	f.IntVar(&r.ejectPercent, "eject-percent", 50, "how many endpoints of a service may be set aside at a time")
	f.DurationVar(&r.slowStart, "slow-start", 10*time.Second, "how long an endpoint that is new, or back, gets fewer requests; 0 = not at all")

	f.Float64Var(&r.retryPercent, "retry-percent", 20, "retries of a service's requests, in percent of them")
	f.Float64Var(&r.retriesPerSecond, "retries-per-second", 10, "retries of a service's requests that are allowed besides")

	f.IntVar(&r.maxConnections, "max-connections", 32_768, "clients' connections from which on namespaces are held to their shares, at most half of what files may be open; 0 = no limit")
	f.IntVar(&r.maxRequests, "max-requests", 16_384, "HTTP requests under way from which on namespaces are held to their shares; 0 = no limit")
	f.IntVar(&r.connectionsPerSecond, "max-connections-per-second", 0, "new connections per second from which on namespaces are held to their shares; 0 = no limit")
	f.IntVar(&r.maxBuffered, "max-buffered-mib", 256, "MiB of HTTP/2 bodies that are buffered from which on namespaces are held to their shares, at most a third of GOMEMLIMIT; 0 = no limit")
}

func (r *resilience) check() error {
	switch {
	case r.ejectAfter < 0:
		return errors.New("--eject-after: want 0 or more")
	case r.ejectPercent < 0 || r.ejectPercent > 100:
		return errors.New("--eject-percent: want 0 to 100")
	case r.ejectFor <= 0 || r.ejectForMost < r.ejectFor:
		return errors.New("--eject-for: want more than 0, and at most --eject-for-most")
	case r.slowStart < 0:
		return errors.New("--slow-start: want 0 or more")
	case r.retryPercent < 0 || r.retriesPerSecond < 0:
		return errors.New("--retry-percent, --retries-per-second: want 0 or more")
	case r.maxConnections < 0 || r.maxRequests < 0 || r.connectionsPerSecond < 0:
		return errors.New("--max-connections, --max-requests, --max-connections-per-second: want 0 or more")
	case r.maxBuffered < 0 || r.maxBuffered > 1<<20:
		return errors.New("--max-buffered-mib: want 0 to 1048576")
	}
	return nil
}

// set sets what the flags say. A number that is 0 is the default there, and less than 0 is none.
func (r *resilience) set(c *proxy.Config) {
	e := &c.Upstream.Ejection
	e.Failures, e.Least, e.Most = none(r.ejectAfter), r.ejectFor, r.ejectForMost
	c.Upstream.MaxEjected, c.Upstream.SlowStart = none(r.ejectPercent), none(r.slowStart)
	c.Retries.Ratio, c.Retries.PerSecond = none(r.retryPercent/100), none(r.retriesPerSecond)
	c.Share.Requests, c.Share.Rate = none(r.maxRequests), none(r.connectionsPerSecond)
	c.Share.Connections = none(withinFiles(r.maxConnections))
	c.Share.Bytes = none(withinMemory(r.maxBuffered<<20, debug.SetMemoryLimit(-1)))
}

func none[T int | float64 | time.Duration](n T) T {
	if n == 0 {
		return -1
	}
	return n
}

// withinFiles lowers a number of clients' connections to what file descriptors there are for: each may need another one to
// an endpoint.
func withinFiles(connections int) int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || connections == 0 {
		return connections
	}
	return int(min(uint64(connections), max(limit.Cur/2, 1)))
}

// withinMemory lowers a number of buffered bytes to a third of what the garbage collector keeps to: with all shares there
// may be twice as many.
func withinMemory(buffered int, limit int64) int { return int(min(int64(buffered), max(limit/3, 1))) }
