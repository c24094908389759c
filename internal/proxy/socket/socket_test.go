package socket_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
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

func TestWriterWaits(t *testing.T) {
	near, far := sockettest.Pair(t)
	w := socket.NewWriter(raw(t, near))
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

func TestWriterFails(t *testing.T) {
	near, far := sockettest.Pair(t)
	w := socket.NewWriter(raw(t, near))
	if err := near.SetWriteDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := w.Write(long); !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n == len(long) {
		t.Errorf("after the deadline %d bytes are written: %v", n, err)
	}
	if err := near.SetWriteDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if err := far.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	far.Close()
	if n, err := w.Write(long); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) || n == len(long) {
		t.Errorf("to nobody %d bytes are written: %v", n, err)
	}
	near.Close()
	if n, err := w.Write([]byte("x")); !errors.Is(err, net.ErrClosed) || n != 0 {
		t.Errorf("after the end %d bytes are written: %v", n, err)
	}
}

func TestRead(t *testing.T) {
	near, far := sockettest.Pair(t)
	b := make([]byte, 8)
	read := func() (n int, errno syscall.Errno) {
		err := raw(t, near).Read(func(fd uintptr) bool {
			n, errno = socket.Read(fd, b)
			return errno != syscall.EAGAIN
		})
		if err != nil {
			t.Fatal(err)
		}
		return n, errno
	}
	err := raw(t, near).Read(func(fd uintptr) bool {
		if _, errno := socket.Read(fd, b); errno != syscall.EAGAIN {
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
