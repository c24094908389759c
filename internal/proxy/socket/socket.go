// Package socket reads and writes plain TCP connections that never wait, for who does so for every request.
package socket

import (
	"errors"
	"syscall"
)

// ErrUnasked says that the other end has spoken, or hung up, before it was asked.
var ErrUnasked = errors.New("the other end did not wait to be asked")

// Conn is a connection. It belongs to one goroutine, but for Read. Unlike those of net, its errors don't name the connection.
type Conn struct {
	raw  syscall.RawConn
	fd   uintptr // while it is held
	held bool
	read func(fd uintptr) (done bool) // by Hold

	rest []byte // to be written
	err  error

	kept, asked bool
	answer      func(fd uintptr) (done bool)

	hold, write, ask func(fd uintptr) (done bool) // made once, as making them takes memory
}

// New returns the Conn of a socket that doesn't block.
func New(raw syscall.RawConn) *Conn {
	c := &Conn{raw: raw}
	c.hold, c.write, c.ask = c.holdAt, c.writeTo, c.askAt
	return c
}

// Read calls read whenever there may be something to read, until it is done. Another goroutine may write meanwhile.
func (c *Conn) Read(read func(fd uintptr) (done bool)) error {
	return c.raw.Read(read) //nolint:wrapcheck // says all
}

// Hold does as Read. Between its calls nothing is forgotten, as it is by a Read that begins: read may do all that there is
// to do, but for another Read. What it writes is written without asking again whether the connection is still open, as
// it can't be closed before read returns.
func (c *Conn) Hold(read func(fd uintptr) (done bool)) error {
	c.read = read
	return c.raw.Read(c.hold) //nolint:wrapcheck // says all
}

func (c *Conn) holdAt(fd uintptr) (done bool) {
	c.fd, c.held = fd, true
	defer c.release()
	return c.read(fd)
}

func (c *Conn) release() { c.held = false }

// Write implements io.Writer. When it has to wait, it respects the connection's deadline.
func (c *Conn) Write(p []byte) (int, error) {
	c.rest, c.err = p, nil
	if !c.held || !c.writeTo(c.fd) {
		if err := c.raw.Write(c.write); err != nil {
			c.err = err
		}
	}
	n := len(p) - len(c.rest)
	c.rest = nil
	return n, c.err
}

// writeTo is done when all is written, or nothing more can be.
func (c *Conn) writeTo(fd uintptr) (done bool) {
	for len(c.rest) > 0 {
		n, errno := write(fd, c.rest)
		switch errno {
		case 0:
			c.rest = c.rest[n:]
		case syscall.EAGAIN:
			return false
		default:
			c.err = errno
			return true
		}
	}
	return true
}

// Ask writes p, and then calls answer whenever there may be something to read, until it is done. On a connection that was
// kept it fails with ErrUnasked, and writes nothing, if something is there already: it would be taken for the answer. It
// returns how much of p was written.
func (c *Conn) Ask(p []byte, kept bool, answer func(fd uintptr) (done bool)) (int, error) {
	c.rest, c.err = p, nil
	c.kept, c.asked, c.answer = kept, false, answer
	err := c.raw.Read(c.ask)
	if err == nil && c.err == nil && len(c.rest) > 0 { // more than the kernel takes at once
		if err = c.raw.Write(c.write); err == nil && c.err == nil {
			err = c.raw.Read(answer)
		}
	}
	if err != nil {
		c.err = err
	}
	n := len(p) - len(c.rest)
	c.rest, c.answer = nil, nil
	return n, c.err
}

// askAt writes, and waits for what comes afterwards. What came before this wait began it is not told of, and has to look.
func (c *Conn) askAt(fd uintptr) (done bool) {
	if c.asked {
		return c.answer(fd)
	}
	c.asked = true
	quiet := Quiet(fd)
	if !quiet && c.kept {
		c.err = ErrUnasked
		return true
	}
	if !c.writeTo(fd) || c.err != nil {
		return true
	}
	return !quiet && c.answer(fd)
}

// Quiet says that a read would wait: there is no data, no end and no error.
func Quiet(fd uintptr) bool {
	var b [1]byte
	_, errno := peek(fd, b[:])
	return errno == syscall.EAGAIN
}

// Ended says that the other end has ended its half, and all of it was read. Any goroutine may ask.
func (c *Conn) Ended() bool {
	ended := false
	err := c.raw.Control(func(fd uintptr) {
		var b [1]byte
		n, errno := peek(fd, b[:])
		ended = n == 0 && errno == 0
	})
	return err == nil && ended
}

// Take reads what is there. It fails with EAGAIN if that is nothing; at the end it reads nothing and doesn't fail.
func Take(fd uintptr, p []byte) (int, syscall.Errno) { return read(fd, p) }
