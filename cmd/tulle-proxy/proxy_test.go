//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/firsthop"
)

// backend answers with its name.
func backend(t *testing.T, name string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) }))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// web is the service that the tests call, and the URL to call it at.
func web(t *testing.T) (service, string) {
	t.Helper()
	s := service{name: "web", target: freePorts(t, 1)[0], backend: backend(t, "web v1")}
	return s, fmt.Sprintf("http://127.0.0.1:%d/", s.target)
}

func mustGet(t *testing.T, url, want string) {
	t.Helper()
	if code, body, err := get(url); err != nil || code != http.StatusOK || body != want {
		t.Fatalf("%s: %d %q %v, want %q", url, code, body, err, want)
	}
}

func TestServes(t *testing.T) {
	t.Parallel()
	c := startController(t)
	s, url := web(t)
	p := startProxy(t, c, t.TempDir(), "--access-log")
	eventually(t, "the holder answers", func() bool { return p.readiness() != 0 })
	if code := p.readiness(); code != http.StatusServiceUnavailable {
		t.Errorf("ready (%d) before the first config", code)
	}
	c.publish(t, true, s)
	p.waitReady()

	mustGet(t, url, "web v1")
	eventually(t, "the access log has the request", func() bool {
		return strings.Contains(p.log.String(), `"namespace":"shop","service":"web"`)
	})
	if got := lookup(t, p.dns, "web.shop.mesh"); got != "10.96.0.7" {
		t.Errorf("web.shop.mesh is %q", got)
	}
	if got := lookup(t, p.dns, "other.shop.mesh"); got != "" {
		t.Errorf("other.shop.mesh is %q", got)
	}
	mustGet(t, "http://"+p.admin+"/version", "dev\n")
	_, metrics, err := get("http://" + p.metrics + "/metrics")
	for _, line := range []string{
		`tulle_build_info{component="proxy",version="dev"} 1`, "tulle_proxy_config_connected 1",
		"tulle_proxy_config_from_disk 0", "tulle_proxy_worker_restarts_total 0",
		`tulle_dns_responses_total{rcode="NOERROR",type="A"} `, "process_resident_memory_bytes", "tulle_proxy_requests_total",
	} {
		if !strings.Contains(metrics, line) {
			t.Errorf("metrics have no %q (%v)", line, err)
		}
	}
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	_, page, _ = bytes.Cut(page, []byte("# Metrics of the proxy's program"))
	page, _, _ = bytes.Cut(page, []byte("# Metrics of identities and tunnels"))
	documented := regexp.MustCompile("`(tulle_[a-z_]+)`").FindAllSubmatch(page, -1)
	if len(documented) < 7 {
		t.Errorf("%d metrics are documented", len(documented))
	}
	for _, m := range documented {
		if !strings.Contains(metrics, "# TYPE "+string(m[1])+" ") {
			t.Errorf("%s is documented and not served", m[1])
		}
	}
	if _, config, err := get("http://" + p.admin + "/config"); !strings.Contains(config, `"kind": "Service"`) || strings.Contains(config, "the token") {
		t.Errorf("the config dump, %v:\n%s", err, config)
	}
	if _, seen, err := get("http://" + p.admin + "/observed?to=shop"); !strings.HasPrefix(seen, `{"pod":"`+podName+`","node":"node-1","since":"`) || !strings.HasSuffix(seen, "\"edges\":[]}\n") {
		t.Errorf("what was observed: %s, %v", seen, err)
	}
	if _, heap, err := get("http://" + p.admin + "/debug/pprof/goroutine?debug=1"); !strings.Contains(heap, "goroutine profile") {
		t.Errorf("pprof answers %q, %v", heap, err)
	}
	// It asks itself who it is, as it would be asked behind a Service.
	_, text, err := get("http://" + p.admin + firsthop.URL("mesh", netip.MustParseAddrPort(p.dns)))
	var r firsthop.Report
	if err := errors.Join(err, json.Unmarshal([]byte(text), &r)); err != nil || r.Pod != podName || len(r.Answers) == 0 {
		t.Fatalf("%v: %s", err, text)
	}
	for _, a := range r.Answers {
		if a.Pod != podName || a.Source != "127.0.0.1" || a.Client != "127.0.0.1" || a.Error != "" {
			t.Errorf("it found out %+v", a)
		}
	}
}

// TestWorkerIsReplaced kills the worker under load with a controller, stops it without one: nobody is refused, the next
// answer comes within a second (on a busy machine, in one try of three), and the proxy stays ready.
func TestWorkerIsReplaced(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]struct {
		signal       syscall.Signal
		noController bool
	}{
		"killed":                       {syscall.SIGKILL, false},
		"killed without a controller":  {syscall.SIGKILL, true},
		"stopped without a controller": {syscall.SIGSTOP, true},
	} {
		t.Run(name, func(t *testing.T) {
			gap := time.Hour
			for try := 0; try < 3 && gap > time.Second; try++ {
				gap = min(gap, replace(t, s.signal, s.noController))
			}
			if gap > time.Second {
				t.Errorf("no answer for %v", gap)
			}
		})
	}
}

// replace signals the worker under load and returns the longest time without an answer.
func replace(t *testing.T, signal syscall.Signal, noController bool) time.Duration {
	c := startController(t)
	s, url := web(t)
	c.publish(t, true, s)
	dir := t.TempDir()
	p := startProxy(t, c, dir)
	p.waitReady()
	waitStored(t, dir)
	if noController {
		c.stop()
	}
	l := startLoad(url, "web v1")
	eventually(t, "answers before", func() bool { return l.count() > 100 })
	pid := p.signalWorker(signal)
	eventually(t, "another worker answers", func() bool {
		if code := p.readiness(); code != http.StatusOK {
			t.Fatalf("readiness flipped: %d", code)
		}
		return p.status().PID != pid
	})
	before := l.count()
	eventually(t, "answers after", func() bool { return l.count() > before+100 })
	l.stop()
	if l.refused > 0 {
		t.Errorf("%d connections were refused", l.refused)
	}
	if got := lookup(t, p.dns, "web.shop.mesh"); got != "10.96.0.7" {
		t.Errorf("web.shop.mesh is %q", got)
	}
	if got := p.status().Restarts; got != 1 {
		t.Errorf("%d restarts", got)
	}
	t.Logf("%d answers, the longest gap was %v", l.answers, l.gap)
	return l.gap
}

// TestContainerRestart ends holder and worker and starts new ones, without a controller.
func TestContainerRestart(t *testing.T) {
	t.Parallel()
	c := startController(t)
	s, url := web(t)
	c.publish(t, true, s)
	dir := t.TempDir()
	p := startProxy(t, c, dir)
	p.waitReady()
	waitStored(t, dir)
	c.stop()
	mustGet(t, url, "web v1")
	p.kill()
	if _, _, err := get(url); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("after the end of the proxy: %v", err)
	}

	p = startProxy(t, c, dir)
	t.Logf("ready after %v", p.waitReady())
	mustGet(t, url, "web v1")
	if got := p.status(); !got.FromDisk || got.Connected {
		t.Errorf("status %+v", got)
	}

	// A pod that replaces another has an empty store, and no business with clients yet.
	p = startProxy(t, c, t.TempDir())
	eventually(t, "the holder answers", func() bool { return p.readiness() != 0 })
	eventually(t, "the worker has tried the controller", func() bool { return strings.Contains(p.log.String(), "no config stream") })
	if code := p.readiness(); code != http.StatusServiceUnavailable {
		t.Errorf("ready (%d) without any config", code)
	}
}

// TestStop has the proxy accept until the controller has taken it out, then wait for the request that is under way.
func TestStop(t *testing.T) {
	t.Parallel()
	c := startController(t)
	s, url := web(t)
	slow := newSlowBackend(t)
	other := service{name: "slow", target: freePorts(t, 1)[0], backend: slow.address}
	c.publish(t, true, s, other)
	p := startProxy(t, c, t.TempDir(), "--stop-lag", "300ms")
	p.waitReady()
	answer := make(chan string, 1)
	go func() {
		_, body, err := get(fmt.Sprintf("http://127.0.0.1:%d/", other.target))
		answer <- fmt.Sprint(body, err)
	}()
	<-slow.asked
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it stops", func() bool { return strings.Contains(p.log.String(), "msg=stopping") })
	mustGet(t, url, "web v1")
	if code := p.readiness(); code != http.StatusOK {
		t.Errorf("not ready (%d) while mesh addresses lead to it", code)
	}
	c.publish(t, false, s, other)
	eventually(t, "it is not ready", func() bool { return p.readiness() == http.StatusServiceUnavailable })
	eventually(t, "it drains", func() bool { return strings.Contains(p.log.String(), "msg=draining") })
	eventually(t, "it refuses", func() bool { _, _, err := get(url); return errors.Is(err, syscall.ECONNREFUSED) })
	close(slow.answer)
	if got := <-answer; got != "slow<nil>" {
		t.Errorf("the request under way: %s", got)
	}
	if err := <-p.ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
	p.ended <- nil
}

// TestStopWithoutAController waits no longer than it is told; the worker that is killed meanwhile is replaced by one
// that goes on to stop.
func TestStopWithoutAController(t *testing.T) {
	t.Parallel()
	c := startController(t)
	s, url := web(t)
	c.publish(t, true, s)
	dir := t.TempDir()
	p := startProxy(t, c, dir, "--stop-wait", "2s", "--stop-lag", "10ms")
	p.waitReady()
	waitStored(t, dir)
	c.stop()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it stops", func() bool { return strings.Contains(p.log.String(), "msg=stopping") })
	p.signalWorker(syscall.SIGKILL)
	eventually(t, "the next worker goes on", func() bool { return strings.Count(p.log.String(), "msg=stopping") == 2 })
	mustGet(t, url, "web v1")
	if err := <-p.ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
	p.ended <- nil
}

// TestStoredConfigIsDistrusted crashes workers until one does without the stored config and waits for the controller.
func TestStoredConfigIsDistrusted(t *testing.T) {
	t.Parallel()
	c := startController(t)
	s, url := web(t)
	c.publish(t, true, s)
	dir := t.TempDir()
	p := startProxy(t, c, dir)
	p.waitReady()
	waitStored(t, dir)
	for range distrustStore {
		pid := p.signalWorker(syscall.SIGQUIT) // Go exits by itself then, as after a panic
		eventually(t, "the next worker", func() bool { return p.status().PID != pid })
	}
	eventually(t, "a worker without the stored config", func() bool {
		return strings.Contains(p.log.String(), "the stored config is left alone")
	})
	mustGet(t, url, "web v1")
	if p.status().FromDisk {
		t.Error("the stored config is in use")
	}
}

func TestBadFlags(t *testing.T) {
	t.Parallel()
	for flag, want := range map[string]string{
		"--controller=nonsense": "--controller",
		"--log-level=loud":      "--log-level",
		"--log-format=xml":      "--log-format",
		"--no-such-flag":        "unknown flag",
		"positional":            "unknown command",
	} {
		var out bytes.Buffer
		err := newRoot([]string{flag}, &out, &out).ExecuteContext(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", flag, err)
		}
	}
	if err := newRoot([]string{"worker"}, io.Discard, io.Discard).ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "not started by a holder") {
		t.Errorf("a worker alone: %v", err)
	}
}

// slowBackend answers when it is told to.
type slowBackend struct {
	address string
	asked   chan struct{}
	answer  chan struct{}
}

func newSlowBackend(t *testing.T) *slowBackend {
	b := &slowBackend{asked: make(chan struct{}, 10), answer: make(chan struct{})}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		b.asked <- struct{}{}
		<-b.answer
		fmt.Fprint(w, "slow")
	}))
	t.Cleanup(s.Close)
	b.address = s.Listener.Addr().String()
	return b
}

// load asks all the time, each time on a new connection.
type load struct {
	wg   sync.WaitGroup
	quit chan struct{}

	mu      sync.Mutex
	last    time.Time
	gap     time.Duration // the longest time without an answer
	answers int
	refused int
}

func startLoad(url, want string) *load {
	l := &load{quit: make(chan struct{}), last: time.Now()}
	for range 4 {
		l.wg.Go(func() {
			for {
				select {
				case <-l.quit:
					return
				default:
					l.ask(url, want)
				}
			}
		})
	}
	return l
}

func (l *load) ask(url, want string) {
	_, body, err := get(url)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && body == want {
		l.gap = max(l.gap, time.Since(l.last))
		l.last = time.Now()
		l.answers++
	} else if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "dial" {
		l.refused++
	}
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answers
}

func (l *load) stop() {
	close(l.quit)
	l.wg.Wait()
}
