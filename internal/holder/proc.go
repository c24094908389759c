//go:build linux

package holder

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// thread is one thread of a process as the kernel accounts for it.
type thread struct {
	state byte          // of proc_pid_stat(5): R running or runnable, S asleep, D waiting for a disk, T stopped, …
	ran   time.Duration // on a CPU, in all
	stood time.Duration // runnable without a CPU, in all
}

// threads reads what /proc knows of a process's threads, by ID. Threads that end meanwhile are left out.
func threads(pid int) (map[int]thread, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "task")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list threads: %w", err)
	}
	all := make(map[int]thread, len(entries))
	for _, e := range entries {
		id, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join(dir, e.Name(), "stat"))
		if err != nil {
			continue
		}
		// A kernel without this file leaves the state to judge by.
		sched, _ := os.ReadFile(filepath.Join(dir, e.Name(), "schedstat"))
		all[id] = parseThread(stat, sched)
	}
	return all, nil
}

func parseThread(stat, sched []byte) thread {
	var t thread
	// The name, in parentheses, may hold anything.
	if _, after, ok := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" ")); ok && len(after) > 0 {
		t.state = after[0]
	}
	if f := bytes.Fields(sched); len(f) >= 2 {
		t.ran, t.stood = nanoseconds(f[0]), nanoseconds(f[1])
	}
	return t
}

func nanoseconds(b []byte) time.Duration {
	n, _ := strconv.ParseInt(string(b), 10, 64) // 0 if it is none
	return time.Duration(n)
}
