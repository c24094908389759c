package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// output is what a running command has printed so far.
type output struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{}
}

func newOutput() *output { return &output{changed: make(chan struct{}, 1)} }

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.changed <- struct{}{}:
	default:
	}
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// await waits for output that fits and returns what the groups of the expression hold.
func (o *output) await(t *testing.T, expression string) []string {
	t.Helper()
	re := regexp.MustCompile("(?m)" + expression)
	deadline := time.After(30 * time.Second)
	for {
		if found := re.FindStringSubmatch(o.String()); found != nil {
			return found[1:]
		}
		select {
		case <-o.changed:
		case <-deadline:
			t.Fatalf("no %q in:\n%s", expression, o)
		}
	}
}

// started is a command that runs.
type started struct {
	stdout, stderr *output
	stop           func() error
}

// startCommand runs a command in this process until the test stops it.
func startCommand(t *testing.T, args ...string) *started {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s := &started{stdout: newOutput(), stderr: newOutput()}
	root := newRoot(strings.NewReader(""), s.stdout, s.stderr)
	root.SetArgs(args)
	done := make(chan error, 1)
	go func() { done <- root.ExecuteContext(ctx) }()
	s.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() { _ = s.stop() }) // a test that cares has asked already
	return s
}

const webService = `apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{name: http, port: 8080}]}
`

// `tulle run` says what it serves and what is wrong with the files, also when they change, and ends without an error.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		part := filepath.Join(dir, "."+name)
		if err := os.WriteFile(part, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(part, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	write("web.yaml", webService)
	write("broken.yaml", "kind: [\n")
	seen := filepath.Join(t.TempDir(), "seen.json")
	s := startCommand(t, "run", "-f", dir, "--dns", "127.0.0.1:0", "--zones", "mesh,traefik.mesh", "--observed", seen)
	s.stdout.await(t, `^web\.shop\.mesh +127\.\d+\.\d+\.\d+ +8080/http`)
	s.stdout.await(t, `^mesh DNS on 127\.0\.0\.1:(\d+); try: dig @127\.0\.0\.1 -p \d+ web\.shop\.mesh$`)
	s.stderr.await(t, `^identities are simulated`)
	s.stderr.await(t, `^File broken\.yaml#1: UnreadableFile: `)

	write("split.yaml", "apiVersion: split.smi-spec.io/v1alpha4\nkind: TrafficSplit\nmetadata: {name: odd, namespace: shop}\nspec: {service: none, backends: [{service: web, weight: 1}]}\n")
	s.stderr.await(t, `^TrafficSplit shop/odd: RootNotFound: `)
	s.stdout.await(t, `^the changed files are in use$`)
	write("broken.yaml", strings.Replace(webService, "name: web", "name: mended", 1))
	s.stderr.await(t, `^solved: File broken\.yaml#1: UnreadableFile: `)
	s.stdout.await(t, `^mended\.shop\.mesh +127\.`)
	if err := s.stop(); err != nil {
		t.Errorf("tulle run ended with %v", err)
	}
	if saved, err := os.ReadFile(seen); err != nil || !strings.Contains(string(saved), `"pod": "standalone"`) {
		t.Errorf("what was observed: %q, %v", saved, err)
	}
	if n := strings.Count(s.stderr.String(), "RootNotFound"); n != 1 {
		t.Errorf("a problem was said %d times:\n%s", n, s.stderr)
	}
}
