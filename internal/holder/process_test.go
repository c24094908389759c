//go:build linux

package holder

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The test binary is the holder and the worker, too: TestMain turns to testHolder or testWorker.
const roleVariable = "HOLDER_TEST_ROLE"

func TestMain(m *testing.M) {
	var err error
	switch {
	case os.Getenv(roleVariable) == "":
		os.Exit(m.Run())
	case len(os.Args) > 1 && os.Args[1] == "worker":
		err = testWorker()
	default:
		err = testHolder()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, os.Args[1:], err)
		os.Exit(3)
	}
}

func testHolder() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	// As PID 1 does, it inherits what its descendants leave behind.
	const setChildSubreaper = 36
	if _, _, errno := syscall.Syscall(syscall.SYS_PRCTL, setChildSubreaper, 1, 0); errno != 0 {
		return errno
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println("health", l.Addr())
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	return Run(ctx, Config{Args: append([]string{"worker"}, os.Args[1:]...), Health: l, Log: log})
}

// testWorker listens on the addresses of its arguments, each "network/address", and does what HTTP requests tell it.
func testWorker() error {
	w, err := Attach()
	if err != nil {
		return err
	}
	if os.Args[2] == "crash" {
		return errors.New("crashing as told")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	t := &tested{Worker: w, listeners: map[string]io.Closer{}}
	beaten := make(chan error, 1)
	go func() { beaten <- w.Beat(context.Background(), func() { t.mu.Lock(); t.mu.Unlock() }) }() //nolint:staticcheck // it waits for the lock
	for _, arg := range os.Args[2:] {
		if err := t.serve(arg); err != nil {
			return err
		}
	}
	if err := w.Settle(); err != nil {
		return err
	}
	if err := w.Ready(); err != nil {
		return err
	}
	fmt.Printf("ready pid=%d crashes=%d stopping=%t note=%q\n", os.Getpid(), w.Hello.Crashes, !w.Hello.Stopping.IsZero(), w.Hello.Note)
	select {
	case <-ctx.Done():
	case err := <-beaten:
		return err
	}
	if w.Hello.Note == "" {
		if err := w.Remember("stopping"); err != nil {
			return err
		}
	}
	if os.Getenv("HOLDER_TEST_CRASH_IN_STOP") != "" && w.Hello.Stopping.IsZero() {
		return errors.New("crashing while it stops, as told")
	}
	fmt.Println("stopped")
	return nil
}

// tested is a worker under test; mu stands for the locks of a data path.
type tested struct {
	*Worker
	mu        sync.Mutex
	listeners map[string]io.Closer // by argument; used by one request at a time
}

func (t *tested) serve(arg string) error {
	network, address, _ := strings.Cut(arg, "/")
	if network == "udp" {
		c, err := t.ListenPacket(context.Background(), address)
		if err != nil {
			return err
		}
		fmt.Println("udp", c.LocalAddr())
		go echo(c)
		return nil
	}
	l, err := t.Listen(context.Background(), address)
	if err != nil {
		return err
	}
	fmt.Println("tcp", l.Addr())
	t.listeners[arg] = l
	go http.Serve(l, t) //nolint:errcheck,gosec // it ends with the process
	return nil
}

func echo(c *net.UDPConn) {
	b := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		c.WriteTo(b[:n], from) //nolint:errcheck // a test will miss it
	}
}

func (t *tested) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	arg := r.URL.Query().Get("arg")
	var err error
	switch r.URL.Path {
	case "/deadlock":
		t.mu.Lock()
	case "/spin":
		t.mu.Lock()
		go func() {
			for n := 0; ; n++ { // it never lets go
				runtime.KeepAlive(n)
			}
		}()
	case "/panic":
		go panic("as told")
	case "/exit":
		os.Exit(0)
	case "/listen":
		err = t.serve(arg)
	case "/release":
		network, address, _ := strings.Cut(arg, "/")
		t.listeners[arg].Close()
		t.Release(network, address)
	case "/orphan":
		orphan, err := exec.CommandContext(r.Context(), "sh", "-c", "true >&- & echo $!").Output()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
		w.Write(orphan)
		return
	default:
		t.mu.Lock()
		defer t.mu.Unlock()
	}
	if err != nil {
		http.Error(w, fmt.Sprintf("%v in use=%t", err, errors.Is(err, syscall.EADDRINUSE)), http.StatusConflict)
		return
	}
	fmt.Fprint(w, os.Getpid())
}

// running is a holder process with what it and its workers printed.
type running struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan string
	ended chan error
}

// run starts a holder whose workers listen on the addresses.
func run(t *testing.T, env []string, args ...string) *running {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", args...) //nolint:gosec // the test itself
	cmd.Env = append(append(os.Environ(), roleVariable+"=1", "GORACE=atexit_sleep_ms=0"), env...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := &running{t: t, cmd: cmd, lines: make(chan string, 10000), ended: make(chan error, 1)}
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			r.lines <- s.Text()
		}
		close(r.lines)
		r.ended <- cmd.Wait()
	}()
	t.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // it may have ended
		for range r.lines {
		}
	})
	return r
}

// line returns what follows prefix in the next line that has it.
func (r *running) line(prefix string) string {
	r.t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case s, ok := <-r.lines:
			if rest, is := strings.CutPrefix(s, prefix+" "); is {
				return rest
			}
			if !ok {
				r.t.Fatalf("the holder ended and no line began with %q", prefix)
			}
		case <-timeout:
			r.t.Fatalf("no line that begins with %q", prefix)
		}
	}
}

// pid returns the process ID of the next worker that is ready.
func (r *running) pid() int {
	r.t.Helper()
	var pid int
	if _, err := fmt.Sscanf(r.line("ready"), "pid=%d", &pid); err != nil {
		r.t.Fatal(err)
	}
	return pid
}

// end waits for the holder to end by itself.
func (r *running) end() error {
	r.t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case err := <-r.ended:
			return err
		case <-r.lines:
		case <-timeout:
			r.t.Fatal("the holder does not end")
		}
	}
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
