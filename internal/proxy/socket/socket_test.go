package socket_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/socket"
	"github.com/tulle-mesh/tulle/internal/proxy/socket/sockettest"
)

func raw(t *testing.T, c *net.TCPConn) syscall.RawConn {
	t.Helper()
	r, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// long is more than the kernel takes at once.
var long = bytes.Repeat([]byte("0123456789abcdef"), 2<<20)

// reset has far reset the connection, after which near has no deadline.
func reset(t *testing.T, near, far *net.TCPConn) {
	t.Helper()
	if err := near.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if err := far.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	far.Close()
}

func TestWriteWaits(t *testing.T) {
	near, far := sockettest.Pair(t)
	w := socket.New(raw(t, near))
	got := make(chan []byte, 1)
	wrote := make(chan error, 1)
	go func() {
		n, err := w.Write(long)
		if err == nil && n != len(long) {
			err = io.ErrShortWrite
		}
		wrote <- errors.Join(err, near.CloseWrite())
	}()
	go func() {
		b, err := io.ReadAll(far)
		if err != nil {
			t.Error(err)
		}
		got <- b
	}()
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(<-got, long) {
		t.Error("something else arrived")
	}
}

func TestWriteFails(t *testing.T) {
	near, far := sockettest.Pair(t)
	w := socket.New(raw(t, near))
	if err := near.SetWriteDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := w.Write(long); !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n == len(long) {
		t.Errorf("after the deadline %d bytes are written: %v", n, err)
	}
	reset(t, near, far)
	if n, err := w.Write(long); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) || n == len(long) {
		t.Errorf("to nobody %d bytes are written: %v", n, err)
	}
	near.Close()
	if n, err := w.Write([]byte("x")); !errors.Is(err, net.ErrClosed) || n != 0 {
		t.Errorf("after the end %d bytes are written: %v", n, err)
	}
}

func TestTake(t *testing.T) {
	near, far := sockettest.Pair(t)
	b := make([]byte, 8)
	read := func() (n int, errno syscall.Errno) {
		err := raw(t, near).Read(func(fd uintptr) bool {
			n, errno = socket.Take(fd, b)
			return errno != syscall.EAGAIN
		})
		if err != nil {
			t.Fatal(err)
		}
		return n, errno
	}
	err := raw(t, near).Read(func(fd uintptr) bool {
		if _, errno := socket.Take(fd, b); errno != syscall.EAGAIN {
			t.Errorf("nothing is there: %v", errno)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = far.Write([]byte("hello")) }()
	if n, errno := read(); errno != 0 || string(b[:n]) != "hello" {
		t.Errorf("read %q, %v", b[:n], errno)
	}
	far.Close()
	if n, errno := read(); n != 0 || errno != 0 {
		t.Errorf("at the end: %d, %v", n, errno)
	}
}

func TestEnded(t *testing.T) {
	near, far := sockettest.Pair(t)
	c := socket.New(raw(t, near))
	if c.Ended() {
		t.Error("it has said nothing, and may")
	}
	if _, err := far.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := far.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 8)
	for n := 0; n == 0; {
		if c.Ended() {
			t.Fatal("not all was read")
		}
		if err := c.Read(func(fd uintptr) bool {
			n, _ = socket.Take(fd, b)
			return n > 0
		}); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); !c.Ended(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("the end isn't seen")
		}
	}
	near.Close()
	if c.Ended() {
		t.Error("a connection that was closed here has no other end")
	}
}

func TestHold(t *testing.T) {
	near, far := sockettest.Pair(t)
	c := socket.New(raw(t, near))
	b := make([]byte, 8)
	var got []string
	say := func(s string) {
		if _, err := far.Write([]byte(s)); err != nil {
			t.Error(err)
		}
	}
	go say("one")
	err := c.Hold(func(fd uintptr) bool {
		n, errno := socket.Take(fd, b)
		if errno == syscall.EAGAIN {
			return false
		}
		got = append(got, string(b[:n]))
		if len(got) == 2 {
			return true
		}
		say("two")
		for socket.Quiet(fd) { // until it is there, and nothing more will come
			runtime.Gosched()
		}
		return false
	})
	if err != nil || len(got) != 2 || got[1] != "two" {
		t.Errorf("read %q: %v", got, err)
	}
}

// A connection that is closed meanwhile is closed after what is under way.
func TestHoldAndClose(t *testing.T) {
	near, far := sockettest.Pair(t)
	c := socket.New(raw(t, near))
	closed := make(chan struct{})
	if _, err := far.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	err := c.Hold(func(fd uintptr) bool {
		if _, errno := socket.Take(fd, make([]byte, 1)); errno == syscall.EAGAIN {
			return false
		}
		go func() {
			near.Close()
			close(closed)
		}()
		for near.SetDeadline(time.Now().Add(time.Minute)) == nil {
			runtime.Gosched()
		}
		if n, err := c.Write([]byte("hello")); n != 5 || err != nil {
			t.Errorf("wrote %d: %v", n, err)
		}
		select {
		case <-closed:
			t.Error("it was closed while it was written to")
		default:
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	<-closed
	if got, err := io.ReadAll(far); string(got) != "hello" || err != nil {
		t.Errorf("the other end got %q: %v", got, err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

// A body is written while the answer is waited for.
func TestReadWhileWriting(t *testing.T) {
	near, far := sockettest.Pair(t)
	c := socket.New(raw(t, near))
	wrote := make(chan error, 1)
	go func() {
		_, err := c.Write(long)
		wrote <- err
	}()
	var got string
	answer := take(&got)
	for range 3 {
		if _, err := io.CopyN(far, far, 1000); err != nil {
			t.Fatal(err)
		}
		if err := c.Read(answer); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.HasPrefix(string(long), got[:60]) {
		t.Errorf("read %q", got)
	}
	go func() { _, _ = io.Copy(io.Discard, far) }()
	if err := <-wrote; err != nil {
		t.Error(err)
	}
}

// take returns what reads an answer into got.
func take(got *string) func(fd uintptr) bool {
	b := make([]byte, 64)
	return func(fd uintptr) bool {
		n, errno := socket.Take(fd, b)
		*got += string(b[:n])
		return errno != syscall.EAGAIN
	}
}

func TestAsk(t *testing.T) {
	near, far := sockettest.Pair(t)
	c := socket.New(raw(t, near))
	for _, question := range [][]byte{[]byte("how?"), long, []byte("and now?")} {
		go func() {
			b := make([]byte, len(question))
			if _, err := io.ReadFull(far, b); err != nil || !bytes.Equal(b, question) {
				t.Errorf("something else arrived: %v", err)
			}
			if _, err := far.Write([]byte("so")); err != nil {
				t.Error(err)
			}
		}()
		var got string
		if n, err := c.Ask(question, true, take(&got)); err != nil || n != len(question) || got != "so" {
			t.Errorf("asked %d of %d, and read %q: %v", n, len(question), got, err)
		}
	}
}

func TestAskUnasked(t *testing.T) {
	for name, early := range map[string]func(*net.TCPConn) error{
		"spoken":  func(far *net.TCPConn) error { _, err := far.Write([]byte("early")); return err },
		"hung up": (*net.TCPConn).CloseWrite,
	} {
		t.Run(name, func(t *testing.T) {
			near, far := sockettest.Pair(t)
			c := socket.New(raw(t, near))
			if err := early(far); err != nil {
				t.Fatal(err)
			}
			for quiet := true; quiet; runtime.Gosched() {
				if err := raw(t, near).Control(func(fd uintptr) { quiet = socket.Quiet(fd) }); err != nil {
					t.Fatal(err)
				}
			}
			var got string
			if n, err := c.Ask([]byte("how?"), true, take(&got)); !errors.Is(err, socket.ErrUnasked) || n != 0 || got != "" {
				t.Errorf("of a kept one: asked %d, and read %q: %v", n, got, err)
			}
			want := map[string]string{"spoken": "early"}[name]
			if n, err := c.Ask([]byte("how?"), false, take(&got)); err != nil || n != 4 || got != want {
				t.Errorf("of a new one: asked %d, and read %q: %v", n, got, err)
			}
			near.Close()
			if asked, _ := io.ReadAll(far); string(asked) != "how?" {
				t.Errorf("it was asked %q", asked)
			}
		})
	}
}

func TestAskFails(t *testing.T) {
	near, far := sockettest.Pair(t)
	c := socket.New(raw(t, near))
	var got string
	if err := near.SetDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Ask([]byte("how?"), true, take(&got)); !errors.Is(err, os.ErrDeadlineExceeded) || n != 4 {
		t.Errorf("without an answer: asked %d: %v", n, err)
	}
	if n, err := c.Ask([]byte("how?"), true, take(&got)); !errors.Is(err, os.ErrDeadlineExceeded) || n != 0 {
		t.Errorf("after the deadline: asked %d: %v", n, err)
	}
	reset(t, near, far)
	if _, err := c.Ask([]byte("how?"), false, take(&got)); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("of nobody: %v", err)
	}
}
