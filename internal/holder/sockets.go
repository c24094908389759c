//go:build linux

package holder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
)

// sockets are the listening sockets that the holder keeps, as bare file descriptors: in Go's network poller each new
// connection would wake the holder, which has no use for it. One goroutine at a time uses them: the worker's session.
type sockets map[socket]int

// get returns the socket, which it opens unless it is there already.
func (s sockets) get(ctx context.Context, k socket) (int, error) {
	if fd, ok := s[k]; ok {
		return fd, nil
	}
	fd, err := open(ctx, k)
	if err != nil {
		return -1, err
	}
	s[k] = fd
	return fd, nil
}

// release closes the socket: its port is free then, and what waited in its queue is reset.
func (s sockets) release(k socket) {
	if fd, ok := s[k]; ok {
		delete(s, k)
		closeAll([]int{fd})
	}
}

func (s sockets) sorted() []socket {
	all := make([]socket, 0, len(s))
	for k := range s {
		all = append(all, k)
	}
	slices.SortFunc(all, func(a, b socket) int { return strings.Compare(a.String(), b.String()) })
	return all
}

func open(ctx context.Context, k socket) (int, error) {
	var c net.ListenConfig
	c.SetMultipathTCP(false) // Go's default is true; there is no splice on what a client that speaks it gets
	var l interface {
		io.Closer
		syscall.Conn
	}
	switch k.Network {
	case "tcp":
		tcp, err := c.Listen(ctx, k.Network, k.Address)
		if err != nil {
			return -1, err
		}
		l = tcp.(*net.TCPListener)
	case "udp":
		udp, err := c.ListenPacket(ctx, k.Network, k.Address)
		if err != nil {
			return -1, err
		}
		l = udp.(*net.UDPConn)
	default:
		return -1, fmt.Errorf("listen on %s: %w", k, errors.ErrUnsupported)
	}
	defer l.Close()
	return dup(l)
}

// dup returns a second file descriptor of c, which outlives it.
func dup(c syscall.Conn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	var fd uintptr
	var errno syscall.Errno
	if err := raw.Control(func(from uintptr) {
		fd, _, errno = syscall.Syscall(syscall.SYS_FCNTL, from, syscall.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return -1, err
	}
	if errno != 0 {
		return -1, fmt.Errorf("duplicate a socket: %w", errno)
	}
	return int(fd), nil
}
