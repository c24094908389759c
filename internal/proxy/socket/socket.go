// Package socket reads and writes plain TCP connections that never wait, for who does so for every request.
package socket

import "syscall"

// Writer writes to a connection. It belongs to one goroutine. Unlike those of net, its errors don't name the connection.
type Writer struct {
	raw  syscall.RawConn
	rest []byte
	err  error
	step func(fd uintptr) bool // made once, as making it takes memory
}

// NewWriter returns a Writer to a socket that doesn't block.
func NewWriter(raw syscall.RawConn) *Writer {
	w := &Writer{raw: raw}
	w.step = w.write
	return w
}

// Write implements io.Writer. It respects the connection's deadline.
func (w *Writer) Write(p []byte) (int, error) {
	w.rest, w.err = p, nil
	if err := w.raw.Write(w.step); err != nil {
		w.err = err
	}
	n := len(p) - len(w.rest)
	w.rest = nil
	return n, w.err
}

// write is done when all is written, or nothing more can be.
func (w *Writer) write(fd uintptr) (done bool) {
	for len(w.rest) > 0 {
		n, errno := write(fd, w.rest)
		switch errno {
		case 0:
			w.rest = w.rest[n:]
		case syscall.EAGAIN:
			return false
		default:
			w.err = errno
			return true
		}
	}
	return true
}

// Read reads what is there. It fails with EAGAIN if that is nothing; at the end it reads nothing and doesn't fail.
func Read(fd uintptr, p []byte) (int, syscall.Errno) { return read(fd, p) }
