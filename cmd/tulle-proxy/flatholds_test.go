//go:build linux

package main

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"testing"
)

// holdings is what a proxy has when nobody uses it.
type holdings struct {
	heap       int64 // bytes in use after a collection
	goroutines int64
	files      []int // of the worker and the holder
}

func (h holdings) String() string {
	return fmt.Sprintf("%s of heap, %d goroutines, %d files", mebibytes(h.heap), h.goroutines, h.files)
}

func (h holdings) within(before holdings) bool {
	const heap, goroutines, files = 6 << 20, 8, 8 // metrics of who has called whom stay, and buffers that are used again
	for i, n := range h.files {
		if n > before.files[i]+files {
			return false
		}
	}
	return h.heap <= before.heap+heap && h.goroutines <= before.goroutines+goroutines
}

var (
	heapAlloc       = regexp.MustCompile(`(?m)^# HeapAlloc = (\d+)$`)
	goroutinesTotal = regexp.MustCompile(`^goroutine profile: total (\d+)`)
)

// holds collects garbage twice: the first time leaves what sync.Pools had, pipes among it.
func (p *proxyProcess) holds(all []*watched) holdings {
	p.t.Helper()
	var h holdings
	p.figure("heap?gc=1&debug=1", heapAlloc)
	h.heap = p.figure("heap?gc=1&debug=1", heapAlloc)
	h.goroutines = p.figure("goroutine?debug=1", goroutinesTotal)
	for _, w := range all {
		files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", w.pid))
		if err != nil {
			p.t.Fatal(err)
		}
		h.files = append(h.files, len(files))
	}
	return h
}

// figure is the first number that a page of pprof has behind a name.
func (p *proxyProcess) figure(page string, what *regexp.Regexp) int64 {
	p.t.Helper()
	_, body, err := get("http://" + p.admin + "/debug/pprof/" + page)
	found := what.FindStringSubmatch(body)
	if err != nil || found == nil {
		p.t.Fatalf("%s: %v, without %s", page, err, what)
	}
	n, err := strconv.ParseInt(found[1], 10, 64)
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

var vmRSS = regexp.MustCompile(`(?m)^VmRSS:\s+(\d+) kB$`)

// residentBytes is how much memory of a process is in RAM.
func residentBytes(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	found := vmRSS.FindSubmatch(b)
	if err != nil || found == nil {
		t.Fatalf("the memory of process %d: %v", pid, err)
	}
	n, err := strconv.ParseInt(string(found[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}
