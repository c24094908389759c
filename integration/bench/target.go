//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// target is a proxy under load, in a process of its own.
type target struct {
	name, address string
	pid           int // 0: no proxy
	results       []result
	memory        int64 // bytes resident after the load
}

// roles are what children of this program do. They print their address, and serve until they are killed.
var roles = map[string]func(context.Context, string) error{
	"backend":  role(serveBackend),
	"tulle":    role(serveTulle),
	"sizes":    role(serveSizes),
	"httputil": role(serveHTTPUtil),
	"two":      role(servePair),
	"two-tls":  role(serveTunnelled),
}

func role(serve func(context.Context, spec) error) func(context.Context, string) error {
	return func(ctx context.Context, arg string) error {
		var s spec
		if err := json.Unmarshal([]byte(arg), &s); err != nil {
			return err
		}
		return serve(ctx, s)
	}
}

// start starts the target of a name. The error is exec.ErrNotFound if its program is not installed.
func start(ctx context.Context, children *sync.WaitGroup, name string, s spec, o options) (t *target, err error) {
	switch name {
	case "direct":
		return &target{name: name, address: s.Up}, nil
	case "tulle", "httputil", "two", "two-tls":
		return child(ctx, children, name, s)
	case "tulle-bare":
		s.Bare = true
		t, err = child(ctx, children, "tulle", s)
	case "tulle-1000", "tulle-5000":
		_, n, _ := strings.Cut(name, "-")
		if s.Services, err = strconv.Atoi(n); err != nil {
			return nil, err
		}
		t, err = child(ctx, children, "tulle", s)
	default:
		return startPeer(ctx, children, name, s, o)
	}
	if t != nil {
		t.name = name
	}
	return t, err
}

// child starts a process of this program that prints its address.
func child(ctx context.Context, children *sync.WaitGroup, role string, s spec) (*target, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	arg, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, role, string(arg))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("%s said nothing: %w", role, err)
	}
	children.Go(func() { _ = cmd.Wait() }) // until it is killed
	return &target{name: role, address: strings.TrimSpace(line), pid: cmd.Process.Pid}, nil
}

// cpu is the time that the process has run so far, to the nanosecond, and how much of it in the kernel, to the tick.
func (t *target) cpu() (all, kernel time.Duration, err error) {
	if t.pid == 0 {
		return 0, 0, nil
	}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", t.pid))
	if err != nil || len(files) == 0 {
		return 0, 0, errors.Join(err, io.ErrUnexpectedEOF)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // the thread has ended
		}
		first, _, _ := strings.Cut(string(b), " ")
		n, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, 0, err
		}
		all += time.Duration(n)
	}
	kernel, err = t.kernel()
	return all, kernel, err
}

// tick is what /proc counts in, the same wherever Go runs (proc(5), USER_HZ).
const tick = 10 * time.Millisecond

// kernel is the time that the process has been in the kernel.
func (t *target) kernel() (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", t.pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), ") ") // the program's name has none
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := strconv.ParseInt(fields[12], 10, 64) // stime, the fifteenth of all
	return time.Duration(n) * tick, err
}

// rss is the memory of the process in bytes, 0 if it is not known.
func (t *target) rss() int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", t.pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
