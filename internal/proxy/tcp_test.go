package proxy_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy"
)

func TestHalfClosedConnections(t *testing.T) {
	m := start(t)
	t.Run("client first", func(t *testing.T) {
		c := dialRaw(t, m.serve("db", tcpPort, rawServer(t, func(c net.Conn) {
			all, _ := io.ReadAll(c) // ends only if the end is passed on
			fmt.Fprintf(c, "%d bytes\n", len(all))
		})))
		c.say("12345")
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		c.expect("5 bytes\n")
		if _, err := c.r.ReadByte(); !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %v", err)
		}
	})
	t.Run("server first", func(t *testing.T) {
		heard := make(chan string, 1)
		c := dialRaw(t, m.serve("db", tcpPort, rawServer(t, func(c net.Conn) {
			_ = c.(*net.TCPConn).CloseWrite()
			all, _ := io.ReadAll(c)
			heard <- string(all)
		})))
		if _, err := c.r.ReadByte(); !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %v", err)
		}
		c.say("late words")
		c.Close()
		if got := within(t, heard, "words"); got != "late words" {
			t.Errorf("heard %q", got)
		}
	})
}

func reset(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

func TestResetsPass(t *testing.T) {
	m := start(t)
	t.Run("from the server", func(t *testing.T) {
		c := dialRaw(t, m.serve("db", tcpPort, rawServer(t, func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1))
			reset(c)
		})))
		c.say("x")
		if _, err := c.r.ReadByte(); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read: %v", err)
		}
	})
	t.Run("from the client", func(t *testing.T) {
		ended := make(chan error, 1)
		c := dialRaw(t, m.serve("db", tcpPort, rawServer(t, func(c net.Conn) {
			fmt.Fprintln(c, "hello")
			_, err := c.Read(make([]byte, 1))
			ended <- err
		})))
		c.expect("hello\n")
		reset(c.TCPConn)
		if err := within(t, ended, "end at the server"); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read: %v", err)
		}
	})
}

// What a server said before it hung up on a client that still talks arrives.
func TestLastWordsArrive(t *testing.T) {
	m := start(t)
	c := dialRaw(t, m.serve("db", tcpPort, rawServer(t, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 1))
		fmt.Fprintln(c, "too long, goodbye")
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, io.LimitReader(c, 1<<20))
	})))
	go func() {
		junk := make([]byte, 64<<10)
		for {
			if _, err := c.Write(junk); err != nil {
				return
			}
		}
	}()
	c.expect("too long, goodbye\n")
}

func TestNothingToConnectToIsAReset(t *testing.T) {
	m := start(t)
	for name, e := range map[string]*configv1.Endpoints{
		"no-endpoint":    endpoints("db", tcpPort, 80),
		"connect-failed": endpoints("db", tcpPort, 80, unused(t), unused(t)),
	} {
		front := m.serve("db", tcpPort)
		m.set("shop/db", e)
		c, err := net.Dial("tcp", front)
		if err == nil {
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %v", name, err)
		}
		eventually(t, func() error { // counted after the reset
			if n := m.metric("tulle_proxy_refusals_total", "protocol", "tcp", "service", "db", "reason", name); n != 1 {
				return fmt.Errorf("%s: counted %v", name, n)
			}
			return nil
		})
	}
}

func TestTCPConnectsElsewhere(t *testing.T) {
	m := start(t)
	up := rawServer(t, func(c net.Conn) { fmt.Fprintln(c, "up") })
	front := m.serve("db", tcpPort, unused(t), unused(t), up)
	for range 5 {
		dialRaw(t, front).expect("up\n")
	}
}

func TestIdleTCPConnectionsEnd(t *testing.T) {
	t.Parallel()
	m := start(t, func(c *proxy.Config) { c.TCPIdle = time.Second })
	front := m.serve("db", tcpPort, rawServer(t, echo))
	c := dialRaw(t, front)
	for range 8 { // longer than the limit in all
		c.say("tick\n")
		c.expect("tick\n")
		<-time.After(150 * time.Millisecond)
	}
	if _, err := c.r.ReadByte(); err == nil {
		t.Error("an idle connection said something")
	}
}

// A connection that is idle holds its two sockets and nothing else: no pipe to splice through.
func TestIdleTCPConnectionsHoldNoPipes(t *testing.T) {
	m := start(t)
	front := m.serve("db", tcpPort, rawServer(t, func(c net.Conn) { // without io.Copy's pipes
		b := make([]byte, 16)
		for n, err := c.Read(b); err == nil; n, err = c.Read(b) {
			_, _ = c.Write(b[:n])
		}
	}))
	before := pipes(t)
	for range 50 {
		c := dialRaw(t, front)
		c.say("hello\n")
		c.expect("hello\n")
	}
	if n := pipes(t); n > before {
		t.Errorf("%d pipes, %d before", n, before)
	}
}

// pipes is how many of this process's file descriptors are ends of pipes.
func pipes(t *testing.T) int {
	t.Helper()
	files, err := filepath.Glob("/proc/self/fd/*")
	if err != nil || len(files) == 0 {
		t.Skip("no /proc")
	}
	n := 0
	for _, f := range files {
		if to, err := os.Readlink(f); err == nil && strings.HasPrefix(to, "pipe:") {
			n++
		}
	}
	return n
}

func TestBulkIsCountedAndWhole(t *testing.T) {
	m := start(t)
	c := dialRaw(t, m.serve("db", tcpPort, rawServer(t, func(c net.Conn) {
		echo(c)
		_ = c.(*net.TCPConn).CloseWrite()
	})))
	const size = 8 << 20
	sent := make([]byte, size)
	rand.Read(sent)
	go func() {
		_, _ = c.Write(sent) // a failure shows in what comes back
		_ = c.CloseWrite()
	}()
	got, err := io.ReadAll(c.r)
	if err != nil || string(got) != string(sent) {
		t.Fatalf("%d bytes came back, %v", len(got), err)
	}
	c.Close()
	eventually(t, func() error {
		in := m.metric("tulle_proxy_tcp_received_bytes_total", "source_workload", "deployment/client", "service", "db", "backend", "shop/db")
		out := m.metric("tulle_proxy_tcp_sent_bytes_total")
		if in != size || out != size || m.metric("tulle_proxy_tcp_connections_total") != 1 || m.metric("tulle_proxy_tcp_connections") != 0 {
			return fmt.Errorf("in %v, out %v %w", in, out, errNotYet)
		}
		return nil
	})
}

// Live connections don't notice what happens to their service.
func TestTCPConnectionsOutliveTheirListener(t *testing.T) {
	m := start(t)
	front := m.serve("db", tcpPort, rawServer(t, echo))
	c := dialRaw(t, front)
	c.say("one\n")
	c.expect("one\n")
	m.remove(&configv1.Service{}, "shop/db")
	m.remove(&configv1.Endpoints{}, "shop/db")
	if _, err := net.Dial("tcp", front); err == nil {
		t.Error("still accepting")
	}
	c.say("two\n")
	c.expect("two\n")
}
