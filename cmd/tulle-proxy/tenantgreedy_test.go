//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	linux "golang.org/x/sys/unix"
)

// greedyRequest is small, so that thousands of connections with hundreds waiting fit in the kernel's buffers.
const greedyRequest = "GET /a/path HTTP/1.1\r\nHost: loud\r\n\r\n"

// greedyConn is a connection on which requests always wait. It is looked at from time to time: the runtime's poller would
// wake up for each answer, which would cost more than all the rest and take the CPU from those who measure.
type greedyConn struct {
	fd      int    // 0 if there is none
	waiting int    // requests
	cut     int    // octets of one that was sent in part
	rest    []byte // what has come of an answer
}

// greed keeps n connections filled.
func (l *loud) greed(ctx context.Context, n int) {
	conns, buffer := make([]greedyConn, n), make([]byte, 64<<10)
	for ; ctx.Err() == nil; wait(ctx, l.Pause) {
		for i := range conns {
			c := &conns[i]
			if c.fd == 0 && l.take(ctx, c) != nil {
				continue
			}
			select {
			case <-l.all: // else nobody would get a connection besides them
			default:
				continue
			}
			if err := errors.Join(l.hear(c, buffer), l.ask(c)); err != nil {
				linux.Close(c.fd) // by a reset
				l.open.Add(-1)
				l.broken.Add(1)
				l.waiting.Add(-int64(c.waiting))
				*c = greedyConn{}
			}
		}
	}
}

// take connects, and has the connection without the poller.
func (l *loud) take(ctx context.Context, c *greedyConn) error {
	conn, err := l.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close() // the other descriptor stays
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var dupErr error
	return errors.Join(raw.Control(func(fd uintptr) { c.fd, dupErr = linux.Dup(int(fd)) }), dupErr)
}

// ask sends so many requests that again as many wait as are to, if that is worth it.
func (l *loud) ask(c *greedyConn) error {
	const size, several = len(greedyRequest), 32
	more := l.Depth - c.waiting
	if more < several {
		return nil
	}
	n, err := linux.Write(c.fd, l.requests[c.cut:more*size])
	if err != nil {
		return notYet(err)
	}
	sent := (c.cut + n) / size
	c.cut = (c.cut + n) % size
	c.waiting += sent
	l.sent.Add(int64(sent))
	l.waiting.Add(int64(sent))
	return nil
}

// hear counts the answers that have come.
func (l *loud) hear(c *greedyConn, buffer []byte) error {
	for {
		n, err := linux.Read(c.fd, buffer[copy(buffer, c.rest):])
		switch {
		case err != nil:
			return notYet(err)
		case n == 0:
			return io.EOF
		}
		all := buffer[:len(c.rest)+n]
		for {
			status, length, err := nextAnswer(all)
			if err != nil {
				return err
			}
			if length == 0 {
				break
			}
			all = all[length:]
			c.waiting--
			l.waiting.Add(-1)
			l.answered(status).Add(1)
		}
		c.rest = append(c.rest[:0], all...)
	}
}

// notYet is no error of a connection that does not block.
func notYet(err error) error {
	if errors.Is(err, linux.EAGAIN) {
		return nil
	}
	return err
}

// nextAnswer returns the status and the length of the first answer, 0 if it has not come whole.
func nextAnswer(b []byte) (status, length int, err error) {
	head, body, whole := bytes.Cut(b, []byte("\r\n\r\n"))
	if !whole {
		return 0, 0, nil
	}
	_, value, _ := bytes.Cut(head, []byte("ontent-Length: "))
	value, _, _ = bytes.Cut(value, []byte("\r\n"))
	size, err := strconv.Atoi(string(value))
	if err != nil || len(head) < len("HTTP/1.1 200") {
		return 0, 0, fmt.Errorf("answer %q", head)
	}
	if status, err = strconv.Atoi(string(head[9:12])); err != nil || len(body) < size {
		return 0, 0, err
	}
	return status, len(b) - len(body) + size, nil
}
