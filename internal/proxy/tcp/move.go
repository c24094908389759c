package tcp

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// chunk is how much is read at a time. Whoever sends more than enough of them in a row is worth the pipe and the system
// calls that splicing takes.
const (
	chunk  = 16 << 10
	enough = 4
)

var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

// mover passes the bytes of one direction on. While it waits it holds neither a buffer nor a pipe, as most connections
// are idle most of the time.
type mover struct {
	dst, src *net.TCPConn
	raw      syscall.RawConn
	try      func(fd uintptr) bool // read, without a new closure for each call

	buffer *[chunk]byte // nil while there is nothing in it
	n      int
	err    error
}

func newMover(dst, src *net.TCPConn) (*mover, error) {
	raw, err := src.SyscallConn()
	if err != nil {
		return nil, err //nolint:wrapcheck // net's own words
	}
	m := &mover{dst: dst, src: src, raw: raw}
	m.try = m.read
	return m, nil
}

// move passes bytes on until src ends, breaks or misses its read deadline, and says how many. What comes in small pieces
// is read and written, which is two system calls; a stream is moved by the kernel.
func (m *mover) move() (int64, error) {
	var sum int64
	for full := 0; full < enough; full++ {
		n, err := m.step()
		sum += int64(n)
		if errors.Is(err, io.EOF) {
			return sum, nil
		}
		if err != nil {
			return sum, err
		}
		if n < chunk {
			full = -1
		}
	}
	n, err := m.dst.ReadFrom(m.src)
	return sum + n, err //nolint:wrapcheck // net's own words
}

// step passes one chunk on.
func (m *mover) step() (int, error) {
	if err := m.raw.Read(m.try); err != nil {
		return 0, err //nolint:wrapcheck // net's own words
	}
	if m.err != nil {
		return 0, m.err
	}
	defer func() {
		chunks.Put(m.buffer)
		m.buffer = nil
	}()
	return m.dst.Write(m.buffer[:m.n]) //nolint:wrapcheck // net's own words
}

// read reads what there is. It is false if that is nothing.
func (m *mover) read(fd uintptr) bool {
	b := chunks.Get().(*[chunk]byte)
	for m.err = unix.EINTR; errors.Is(m.err, unix.EINTR); {
		m.n, m.err = unix.Read(int(fd), b[:])
	}
	if m.err == nil && m.n == 0 {
		m.err = io.EOF
	}
	if m.err == nil {
		m.buffer = b
		return true
	}
	chunks.Put(b)
	return !errors.Is(m.err, unix.EAGAIN)
}
