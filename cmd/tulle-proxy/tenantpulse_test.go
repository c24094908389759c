//go:build linux

package main

import (
	"encoding/binary"
	"os"
	"time"

	linux "golang.org/x/sys/unix"
)

// pulse is a timer of the kernel: those of the Go runtime are late by up to a millisecond where a process is idle.
type pulse struct {
	*os.File

	fd    int // File's, without its leave to block
	every time.Duration
}

func newPulse(every time.Duration) (*pulse, error) {
	fd, err := linux.TimerfdCreate(linux.CLOCK_MONOTONIC, linux.TFD_NONBLOCK|linux.TFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return &pulse{os.NewFile(uintptr(fd), "timer"), fd, every}, nil
}

// each calls f n times, with when that was due, also if it is late.
func (p *pulse) each(n int, f func(i int, due time.Time)) error {
	tick, start := linux.NsecToTimespec(int64(p.every)), time.Now()
	if err := linux.TimerfdSettime(p.fd, 0, &linux.ItimerSpec{Interval: tick, Value: tick}, nil); err != nil {
		return err
	}
	var expired [8]byte
	for i := 0; i < n; {
		if _, err := p.Read(expired[:]); err != nil {
			return err
		}
		for range binary.NativeEndian.Uint64(expired[:]) {
			if i < n {
				f(i, start.Add(time.Duration(i+1)*p.every))
			}
			i++
		}
	}
	return nil
}
