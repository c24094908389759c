//go:build linux

package holder

import (
	"errors"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const anyPort = "tcp/127.0.0.1:0"

// load asks an address all the time, each time on a new connection.
type load struct {
	wg   sync.WaitGroup
	quit chan struct{}

	mu      sync.Mutex
	last    time.Time
	gap     time.Duration // the longest time without an answer
	answers int
	refused int
}

func startLoad(address string) *load {
	l := &load{quit: make(chan struct{}), last: time.Now()}
	for range 8 {
		l.wg.Go(func() {
			for {
				select {
				case <-l.quit:
					return
				default:
					l.ask(address)
				}
			}
		})
	}
	return l
}

func (l *load) ask(address string) {
	_, _, err := get("http://" + address)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
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

// eventually polls until ok, for at most 20 s.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		poll(t)
	}
}

func poll(t *testing.T) {
	select {
	case <-time.After(5 * time.Millisecond):
	case <-t.Context().Done():
	}
}

// TestWorkerIsReplacedUnderLoad ends the worker in every way: nobody is refused, and the longest time without an
// answer is under a second; if other work takes the machine's time, one try of three has to be that fast. A worker that
// spins looks like one that is overloaded when the machine is, and then has until the hard limit.
func TestWorkerIsReplacedUnderLoad(t *testing.T) {
	for name, end := range map[string]func(pid int, address string){
		"killed":   func(pid int, _ string) { syscall.Kill(pid, syscall.SIGKILL) },         //nolint:errcheck // it would not be replaced
		"stopped":  func(pid int, _ string) { syscall.Kill(pid, syscall.SIGSTOP) },         //nolint:errcheck // it would not be replaced
		"panics":   func(_ int, address string) { get("http://" + address + "/panic") },    //nolint:errcheck // it gets no answer
		"exits":    func(_ int, address string) { get("http://" + address + "/exit") },     //nolint:errcheck // it gets no answer
		"deadlock": func(_ int, address string) { get("http://" + address + "/deadlock") }, //nolint:errcheck // see exits
		"spins":    func(_ int, address string) { get("http://" + address + "/spin") },     //nolint:errcheck // see exits
	} {
		t.Run(name, func(t *testing.T) {
			best, limit := time.Hour, time.Second
			if name == "spins" {
				limit = 12 * time.Second
			}
			for try := 0; try < 3 && best > limit; try++ {
				best = min(best, replace(t, end))
			}
			if best > limit {
				t.Errorf("no answer for %v", best)
			}
		})
	}
}

// replace ends a worker under load and returns the longest time without an answer.
func replace(t *testing.T, end func(pid int, address string)) time.Duration {
	h := run(t, nil, anyPort)
	ready := "http://" + h.line("health") + "/readyz"
	address := h.line("tcp")
	pid := h.pid()
	l := startLoad(address)
	eventually(t, "answers before", func() bool { return l.count() > 100 })
	end(pid, address)
	if h.line("tcp") != address {
		t.Error("the next worker listens elsewhere")
	}
	for next := l.count() + 100; l.count() < next; poll(t) {
		if code, body, err := get(ready); err != nil || code != http.StatusOK {
			t.Fatalf("readiness: %d %s%v", code, body, err)
		}
	}
	l.stop()
	if l.refused > 0 {
		t.Errorf("%d connections were refused", l.refused)
	}
	t.Logf("%d answers, the longest gap was %v", l.answers, l.gap)
	return l.gap
}

func TestDatagramsWait(t *testing.T) {
	h := run(t, nil, "udp/127.0.0.1:0")
	address := h.line("udp")
	syscall.Kill(h.pid(), syscall.SIGSTOP) //nolint:errcheck // the answer would come too early
	c, err := net.Dial("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	if n, err := c.Read(b); err != nil || string(b[:n]) != "hello" {
		t.Errorf("got %q, %v", b[:n], err)
	}
	if h.line("udp") != address {
		t.Error("the next worker listens elsewhere")
	}
}

func TestCrashLoop(t *testing.T) {
	h := run(t, nil, "crash")
	address := h.line("health")
	for _, path := range []string{"/readyz", "/healthz"} {
		eventually(t, path+" fails for the loop", func() bool {
			code, body, err := get("http://" + address + path)
			if err != nil {
				t.Fatal(err)
			}
			return code == http.StatusServiceUnavailable && strings.Contains(body, errLooping.Error())
		})
	}
}

func TestNotReadyBeforeTheWorkerIs(t *testing.T) {
	h := run(t, nil, anyPort)
	address := h.line("health")
	// The port is open before the worker can be ready, so this is an answer of a holder without a ready worker or,
	// rarely, of one with.
	if code, body, err := get("http://" + address + "/readyz"); err != nil || code != http.StatusOK && !strings.Contains(body, errStarting.Error()) {
		t.Errorf("%d %s%v", code, body, err)
	}
	eventually(t, "ready", func() bool {
		code, _, err := get("http://" + address + "/readyz")
		return err == nil && code == http.StatusOK
	})
}

func TestListenAndRelease(t *testing.T) {
	h := run(t, nil, anyPort)
	address := h.line("tcp")
	tell := func(command, arg string) (int, string) {
		t.Helper()
		code, body, err := get("http://" + address + command + "?arg=" + url.QueryEscape(arg))
		if err != nil {
			t.Fatal(err)
		}
		return code, body
	}
	h.pid()
	// A second address on all of 127.0.0.0/8 has this port for itself.
	_, port, _ := net.SplitHostPort(address)
	other := "127.0.0.2:" + port
	tell("/listen", "tcp/"+other)
	if _, body, err := get("http://" + other); err != nil || body == "" {
		t.Fatalf("the new listener: %q, %v", body, err)
	}
	if code, body := tell("/listen", "tcp/"+address); code != http.StatusConflict || !strings.Contains(body, "in use=true") {
		t.Errorf("a port that is taken: %d %s", code, body)
	}

	// What the next worker has no use for is closed, too.
	_, body := tell("/", "")
	pid, err := strconv.Atoi(body)
	if err != nil {
		t.Fatal(err)
	}
	syscall.Kill(pid, syscall.SIGKILL) //nolint:errcheck // the next line would wait
	if h.pid() == pid {
		t.Fatal("the worker was not replaced")
	}
	if _, _, err := get("http://" + other); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a socket that the next worker doesn't want: %v", err)
	}

	tell("/listen", "tcp/"+other)
	tell("/release", "tcp/"+other)
	eventually(t, "the released port is free", func() bool {
		l, err := net.Listen("tcp", other)
		if err == nil {
			l.Close()
		}
		return err == nil
	})
}

func TestManySockets(t *testing.T) {
	args := []string{anyPort}
	for i := range 1000 {
		args = append(args, "udp/127.0.1."+strconv.Itoa(i/4)+":"+strconv.Itoa(20000+i%4))
	}
	h := run(t, nil, args...)
	pid := h.pid()
	start := time.Now()
	syscall.Kill(pid, syscall.SIGKILL) //nolint:errcheck // the next line would wait
	h.pid()
	t.Logf("1,000 sockets were handed over and taken up in %v", time.Since(start))
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestStop(t *testing.T) {
	h := run(t, nil, anyPort)
	h.pid()
	if err := h.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := h.end(); err != nil {
		t.Errorf("the holder ended with %v", err)
	}
}

func TestCrashWhileStopping(t *testing.T) {
	h := run(t, []string{"HOLDER_TEST_CRASH_IN_STOP=1"}, anyPort)
	h.pid()
	if err := h.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := h.line("ready"); !strings.Contains(got, `crashes=1 stopping=true note="stopping"`) {
		t.Errorf("the next worker was told %s", got)
	}
}

func TestWorkerEndsWithTheHolder(t *testing.T) {
	h := run(t, nil, anyPort)
	address := h.line("tcp")
	syscall.Kill(h.pid(), syscall.SIGSTOP) //nolint:errcheck // it would end as well
	if err := h.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the port is closed", func() bool {
		_, _, err := get("http://" + address)
		return errors.Is(err, syscall.ECONNREFUSED)
	})
}

func TestOrphansAreReaped(t *testing.T) {
	h := run(t, nil, anyPort)
	code, body, err := get("http://" + h.line("tcp") + "/orphan")
	if err != nil || code != http.StatusOK {
		t.Fatalf("%d %s%v", code, body, err)
	}
	orphan, err := strconv.Atoi(strings.TrimSpace(body))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the orphan is gone", func() bool { return errors.Is(syscall.Kill(orphan, 0), syscall.ESRCH) })
}

func TestAttachWithoutAHolder(t *testing.T) {
	if _, err := Attach(); !errors.Is(err, ErrNoHolder) {
		t.Errorf("got %v", err)
	}
}
