package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// demoTable is what the demo promises, line by line.
var demoTable = []string{
	`web\.shop\.mesh +127\.\d+\.\d+\.\d+ +80/http`,
	`100 x http://web\.shop\.mesh/, split 90/10 +v1: 90, v2: 10`,
	`20 x the same with header x-beta: yes +v2: 20`,
	`tcp ledger\.shop\.mesh:7000 +ledger ready, booked 42`,
	`udp gauge\.shop\.mesh:8125 +counted 42`,
	`split\.yaml rewritten to 50/50: in effect after \d+`,
	`100 x http://web\.shop\.mesh/, split 50/50 +v1: 50, v2: 50`,
}

func demo(t *testing.T) {
	t.Helper()
	stdout, stderr := newOutput(), newOutput()
	root := newRoot(strings.NewReader(""), stdout, stderr)
	root.SetArgs([]string{"demo"})
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Fatalf("tulle demo: %v\n%s%s", err, stdout, stderr)
	}
	for _, line := range demoTable {
		if !regexp.MustCompile(`(?m)^` + line).MatchString(stdout.String()) {
			t.Errorf("no line %q in:\n%s", line, stdout)
		}
	}
	for line := range strings.Lines(stderr.String()) {
		// Another mesh on this machine serves the same names; the table says where they are then.
		if !strings.Contains(line, "port not open") {
			t.Errorf("the demo complains: %s", line)
		}
	}
}

// Without a terminal the demo ends by itself.
func TestDemo(t *testing.T) {
	t.Parallel()
	demo(t)
}

// Nobody has to make room for the demo: whatever its examples name may be taken.
func TestDemoWithoutItsPorts(t *testing.T) {
	t.Parallel()
	var lc net.ListenConfig
	for port := 18081; port <= 18084; port++ {
		address := fmt.Sprintf("127.0.0.1:%d", port)
		l, err := lc.Listen(t.Context(), "tcp", address)
		if err == nil {
			defer l.Close()
		} else if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
		p, err := lc.ListenPacket(t.Context(), "udp", address)
		if err == nil {
			defer p.Close()
		} else if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
	}
	demo(t)
}

// On a terminal it stays, for the user to play with.
func TestDemoStays(t *testing.T) {
	t.Parallel()
	s := startCommand(t, "demo", "--stay")
	dir := s.stdout.await(t, `The mesh goes on until \^C\. Its files are in (\S+): change them and watch\.`)[0]
	s.stdout.await(t, `^  curl http://127\.\d+\.\d+\.\d+:\d+/$`)
	if err := os.WriteFile(filepath.Join(dir, "z.yaml"), []byte(webService), 0o600); err != nil {
		t.Fatal(err)
	}
	s.stderr.await(t, `^Service shop/web: DuplicateObject: `)
	if err := s.stop(); err != nil {
		t.Errorf("tulle demo ended with %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the demo left %s behind", dir)
	}
}
