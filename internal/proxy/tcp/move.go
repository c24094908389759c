package tcp

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// chunk is how much is read at a time: no more than a tunnel carries in one piece. Whoever sends more than enough of them
// in a row is worth the pipe and the system calls that splicing takes.
const (
	chunk  = 16<<10 - 3
	enough = 4
)

var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

// mover passes the bytes of one direction on. While it waits it holds neither a buffer nor a pipe, as most connections
// are idle most of the time.
type mover struct {
	dst, src Conn
	into     *net.TCPConn          // dst, if the kernel can move bytes there from src
	raw      syscall.RawConn       // of src, if it is a plain socket
	try      func(fd uintptr) bool // read, without a new closure for each call

	buffer *[chunk]byte // nil while there is nothing in it
	n      int
	err    error
}

func newMover(dst, src Conn) (*mover, error) {
	m := &mover{dst: dst, src: src}
	if from, ok := src.(*net.TCPConn); ok {
		var err error
		if m.raw, err = from.SyscallConn(); err != nil {
			return nil, err //nolint:wrapcheck // net's own words
		}
		m.try = m.read
		m.into, _ = dst.(*net.TCPConn)
	}
	return m, nil
}

// move passes bytes on until src ends, breaks or misses its read deadline, and says how many. What comes in small pieces
// is read and written, which is two system calls; a stream is moved by the kernel.
func (m *mover) move() (int64, error) {
	var sum int64
	for full := 0; full < enough || m.into == nil; full++ {
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
	n, err := m.into.ReadFrom(m.src)
	return sum + n, err //nolint:wrapcheck // net's own words
}

// step passes one chunk on.
func (m *mover) step() (int, error) {
	if err := m.receive(); err != nil {
		return 0, err
	}
	if m.buffer == nil {
		return 0, m.err
	}
	defer m.free()
	n, err := m.dst.Write(m.buffer[:m.n])
	if err != nil {
		return n, err //nolint:wrapcheck // net's own words
	}
	return n, m.err
}

func (m *mover) free() {
	chunks.Put(m.buffer)
	m.buffer = nil
}

// receive waits for bytes and reads them. Afterwards there is a buffer, if any came, and m.err says if these were the last.
func (m *mover) receive() error {
	if m.raw != nil {
		return m.raw.Read(m.try) //nolint:wrapcheck // net's own words
	}
	if src, ok := m.src.(interface{ Await() error }); ok {
		if err := src.Await(); err != nil {
			return err //nolint:wrapcheck // as above
		}
	}
	m.buffer = chunks.Get().(*[chunk]byte)
	if m.n, m.err = m.src.Read(m.buffer[:]); m.n == 0 {
		m.free()
	}
	return nil
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
