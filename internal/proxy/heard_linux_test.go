package proxy_test

import (
	"errors"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// heard says that the other end has the end of what is sent on a connection, which it may get later on a busy machine.
func heard(t testing.TB, c *net.TCPConn) (is bool) {
	t.Helper()
	const finWait1 = 4 // of the kernel's TCP states
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		is = err == nil && info.State != finWait1
	})
	return is || errors.Is(err, net.ErrClosed)
}
