//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

const mainVariable = "TULLE_PROXY_TEST_MAIN"

// TestMain makes the test binary the command itself where it is started as such, or one of the tenants' programs.
func TestMain(m *testing.M) {
	if os.Getenv(mainVariable) != "" {
		main()
		return
	}
	if role := os.Getenv(tenantVariable); role != "" {
		os.Exit(tenantMain(role, os.Getenv(tenantSpecVariable)))
	}
	os.Exit(m.Run())
}

// proxyProcess is a running tulle-proxy, holder and worker.
type proxyProcess struct {
	t                           *testing.T
	cmd                         *exec.Cmd
	dns, metrics, health, admin string
	ended                       chan error
	log                         *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// startProxy starts a proxy of the controller that keeps its config in dir; more flags may follow.
func startProxy(t *testing.T, c *fakeController, dir string, flags ...string) *proxyProcess {
	t.Helper()
	p := newProxy(t, c, dir, flags...)
	p.start()
	return p
}

// newProxy is a proxy that is not started yet.
func newProxy(t *testing.T, c *fakeController, dir string, flags ...string) *proxyProcess {
	t.Helper()
	ports := freePorts(t, 5)
	at := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", ports[i]) }
	p := &proxyProcess{
		t: t, dns: at(0), metrics: at(1), health: at(2), admin: at(3), ended: make(chan error, 1), log: &lockedBuffer{},
	}
	args := append([]string{
		"--controller", c.address, "--controller-name", serverName, "--ca-file", c.caFile, "--token-file", c.tokenFile,
		"--store", filepath.Join(dir, "last-good"), "--dns-address", p.dns, "--metrics-address", p.metrics,
		"--health-address", p.health, "--admin-address", p.admin, "--pod-name", podName, "--node-name", "node-1",
		"--log-format", "text", "--tunnel-address", at(4), "--identity-ready-wait", "0s",
	}, flags...)
	p.cmd = exec.CommandContext(t.Context(), "/proc/self/exe", args...) //nolint:gosec // the test itself
	p.cmd.Env = append(os.Environ(), mainVariable+"=1", "GORACE=atexit_sleep_ms=0")
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	return p
}

func (p *proxyProcess) start() {
	p.t.Helper()
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func() { p.ended <- p.cmd.Wait() }()
	p.t.Cleanup(func() {
		p.kill()
		if p.t.Failed() {
			p.t.Logf("the proxy said:\n%s", p.log)
		}
	})
}

// kill ends the container: the kernel ends the worker with the holder.
func (p *proxyProcess) kill() {
	p.cmd.Process.Kill() //nolint:errcheck // it may have ended
	select {
	case err := <-p.ended:
		p.ended <- err
	case <-time.After(20 * time.Second):
		p.t.Error("the holder does not end")
	}
}

// waitReady polls until the proxy is ready and returns how long that took.
func (p *proxyProcess) waitReady() time.Duration {
	p.t.Helper()
	start := time.Now()
	eventually(p.t, "the proxy is ready", func() bool { return p.readiness() == http.StatusOK })
	return time.Since(start)
}

func (p *proxyProcess) readiness() int {
	code, _, _ := get("http://" + p.health + "/readyz") // 0 if it does not listen yet
	return code
}

func (p *proxyProcess) status() status {
	p.t.Helper()
	var s status
	eventually(p.t, "the admin port answers", func() bool {
		_, body, err := get("http://" + p.admin + "/status")
		return err == nil && json.Unmarshal([]byte(body), &s) == nil
	})
	return s
}

// signalWorker signals the worker and returns its process ID.
func (p *proxyProcess) signalWorker(s syscall.Signal) int {
	p.t.Helper()
	pid := p.status().PID
	if err := syscall.Kill(pid, s); err != nil {
		p.t.Fatal(err)
	}
	return pid
}

// nextPort makes the ports of tests that run at the same time different.
var nextPort atomic.Int64

// freePorts returns ports that nobody listened on a moment ago, below the range that the kernel gives away.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var ports []int
	for len(ports) < n {
		port := 20000 + (os.Getpid()*97+int(nextPort.Add(1)))%10000
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		u, err := net.ListenPacket("udp", l.Addr().String())
		l.Close()
		if err == nil {
			u.Close()
			ports = append(ports, port)
		}
	}
	return ports
}

// get asks over a connection of its own.
func get(url string) (int, string, error) {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := c.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// eventually polls until ok, for at most 30 s.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); poll(t) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func poll(t *testing.T) {
	select {
	case <-time.After(5 * time.Millisecond):
	case <-t.Context().Done():
	}
}

func sortResources(all []configv1.Resource) {
	slices.SortFunc(all, func(a, b configv1.Resource) int { return a.Compare(b.Key) })
}
