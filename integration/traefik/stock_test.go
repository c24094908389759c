package traefik_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/traefik"
)

// patience is how long anything may take on a machine that does other things besides.
const patience = 60 * time.Second

// stock is a running Traefik with the file provider. It serves one fixture after the other.
type stock struct {
	dir    string
	client http.Client
	serial int
}

// api is where Traefik's own API listens.
func api() string { return loopback("1") + ":8099" }

// startStock starts a Traefik that has the entry points of all fixtures. v3 knows rules of v2 if it is told to.
func startStock(t *testing.T, binary string, v3 bool, entryPoints map[string]string) *stock {
	t.Helper()
	s := &stock{dir: t.TempDir(), client: http.Client{Timeout: 10 * time.Second}}
	static := map[string]any{
		"global":    map[string]any{"checkNewVersion": false, "sendAnonymousUsage": false},
		"log":       map[string]any{"level": "ERROR"},
		"api":       map[string]any{"insecure": true, "dashboard": false},
		"ping":      map[string]any{},
		"providers": map[string]any{"providersThrottleDuration": "10ms", "file": map[string]any{"filename": filepath.Join(s.dir, "dynamic.yaml"), "watch": true}},
	}
	points := map[string]any{"traefik": map[string]any{"address": api()}}
	for name, address := range entryPoints {
		points[name] = map[string]any{"address": address}
		if !strings.HasSuffix(address, "/udp") {
			// as `tulle traefik render --static` has it
			points[name] = map[string]any{"address": address, "http": map[string]any{"encodedCharacters": traefik.EncodedCharacters{}}}
		}
	}
	static["entryPoints"] = points
	if v3 {
		static["core"] = map[string]any{"defaultRuleSyntax": "v2"}
	}
	raw, err := yaml.Marshal(static)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "traefik.yaml", raw)
	s.write(t, "dynamic.yaml", []byte("{}\n"))
	run(t, binary, "--configFile="+filepath.Join(s.dir, "traefik.yaml"))
	await(t, "Traefik answers", func() error {
		r, err := s.client.Get("http://" + api() + "/ping")
		if err == nil {
			r.Body.Close()
		}
		return err
	})
	return s
}

func (s *stock) write(t *testing.T, name string, content []byte) {
	t.Helper()
	// The file provider sees a file that is renamed into its place as one change.
	tmp := filepath.Join(s.dir, "."+name)
	if err := os.WriteFile(tmp, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(s.dir, name)); err != nil {
		t.Fatal(err)
	}
}

// load takes a configuration into use and returns when it is. Every router of it has to be without errors.
func (s *stock) load(t *testing.T, dynamic []byte) {
	t.Helper()
	s.serial++
	marker := fmt.Sprintf("marker-%d", s.serial)
	var config map[string]any
	if err := yaml.Unmarshal(dynamic, &config); err != nil {
		t.Fatal(err)
	}
	if config == nil {
		config = map[string]any{}
	}
	part := func(of map[string]any, name string) map[string]any {
		m, ok := of[name].(map[string]any)
		if !ok {
			m = map[string]any{}
			of[name] = m
		}
		return m
	}
	web := part(config, "http")
	part(web, "routers")[marker] = map[string]any{"entryPoints": []string{"traefik"}, "rule": "Path(`/" + marker + "`)", "service": "ping@internal"}
	raw, err := yaml.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "dynamic.yaml", raw)
	await(t, "Traefik has the configuration", func() error {
		var routers map[string]any
		if err := s.get("/api/rawdata", &routers); err != nil {
			return err
		}
		if _, ok := part(routers, "routers")[marker+"@file"]; !ok {
			return fmt.Errorf("there is no router %s", marker)
		}
		return nil
	})
	s.healthy(t)
}

// healthy fails if anything that Traefik loaded has an error.
func (s *stock) healthy(t *testing.T) {
	t.Helper()
	var all map[string]map[string]struct {
		Status string
		Errors any `json:"error"`
	}
	if err := s.get("/api/rawdata", &all); err != nil {
		t.Fatal(err)
	}
	for kind, list := range all {
		for name, one := range list {
			if one.Errors != nil || one.Status != "" && one.Status != "enabled" {
				t.Errorf("%s %s is %s: %v", kind, name, one.Status, one.Errors)
			}
		}
	}
}

func (s *stock) get(path string, into any) error {
	r, err := s.client.Get("http://" + api() + path)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, r.Status)
	}
	return json.Unmarshal(raw, into)
}

// process is a running program and the lines that it wrote to standard output.
type process struct {
	mu    sync.Mutex
	lines []string
}

func (p *process) output() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.lines...)
}

// run starts a program that ends with the test.
func run(t *testing.T, binary string, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, done := &process{}, make(chan struct{})
	go func() {
		defer close(done)
		for s := bufio.NewScanner(out); s.Scan(); {
			p.mu.Lock()
			p.lines = append(p.lines, s.Text())
			p.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		_ = cmd.Wait() // it was told to end
		if t.Failed() {
			t.Logf("%s %s wrote to standard error:\n%s", filepath.Base(binary), strings.Join(args, " "), tail(stderr.String()))
		}
	})
	return p
}

func tail(s string) string {
	const most = 4000
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}

// await polls until holds returns nil.
func await(t *testing.T, what string, holds func() error) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		err := holds()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}
