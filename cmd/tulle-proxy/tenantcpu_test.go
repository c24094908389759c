//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	linux "golang.org/x/sys/unix"
)

// Who shares a CPU with whom.
const (
	// loudNice is of all that makes or takes the load, or who measures would measure it.
	loudNice = 10
	// ownNice is of the proxy and of who measures: what else runs on the machine must not be what is measured. A service that
	// wakes each second for 10 ms is a hundredth of all requests to a proxy that is busy, and hardly any to one that is not.
	ownNice = -15
)

// beNice lets a process that has just begun, and with it its session, yield to others, or be one that others yield to.
func beNice(t *testing.T, p *os.Process, nice int) {
	t.Helper()
	err := errors.Join(
		eachThread(p.Pid, func(thread int) error { return linux.Setpriority(linux.PRIO_PROCESS, thread, nice) }),
		sessionNice(p.Pid, nice))
	if errors.Is(err, os.ErrPermission) && nice < 0 {
		t.Logf("what else runs on this machine may delay who measures: only root may put it behind: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
}

// sessionNice is what counts between sessions, where the kernel groups by them.
func sessionNice(pid, nice int) error {
	err := os.WriteFile(fmt.Sprintf("/proc/%d/autogroup", pid), []byte(strconv.Itoa(nice)), 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // by its build it groups nothing
	}
	return err
}

// eachThread calls f for all threads of a process, those that begin meanwhile included: threads inherit what f sets.
func eachThread(pid int, f func(thread int) error) error {
	for done := map[string]bool{}; ; {
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return err
		}
		more := false
		for _, e := range threads {
			if done[e.Name()] {
				continue
			}
			done[e.Name()], more = true, true
			thread, err := strconv.Atoi(e.Name())
			if err == nil {
				err = f(thread)
			}
			if err != nil && !errors.Is(err, linux.ESRCH) {
				return err
			}
		}
		if !more {
			return nil
		}
	}
}

// pinTest keeps the test on a CPU, and with it what it starts, until the test ends.
func pinTest(t *testing.T, cpu int) {
	t.Helper()
	var all, one linux.CPUSet
	one.Set(cpu)
	set := func(s *linux.CPUSet) error {
		return eachThread(os.Getpid(), func(thread int) error { return linux.SchedSetaffinity(thread, s) })
	}
	if err := errors.Join(linux.SchedGetaffinity(0, &all), set(&one)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := set(&all); err != nil {
			t.Error(err)
		}
	})
}

// startOn starts a proxy on a CPU, which it sees as the only one, in a session of its own. It dies with the test.
func (p *proxyProcess) startOn(cpu int) {
	p.t.Helper()
	var before, one linux.CPUSet
	one.Set(cpu)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // a child inherits from the thread that starts it
	defer runtime.UnlockOSThread()
	if err := errors.Join(linux.SchedGetaffinity(0, &before), linux.SchedSetaffinity(0, &one)); err != nil {
		p.t.Fatal(err)
	}
	p.start()
	beNice(p.t, p.cmd.Process, ownNice)
	if err := linux.SchedSetaffinity(0, &before); err != nil {
		p.t.Fatal(err)
	}
}
