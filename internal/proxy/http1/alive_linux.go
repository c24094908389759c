package http1

import (
	"net"

	"golang.org/x/sys/unix"
)

// tcpClose is TCP_CLOSE of the kernel's enum of TCP states.
const tcpClose = 7

// alive says whether the kernel still has a connection, as opposed to one that was reset or timed out. A client that
// has closed its half only is alive: it may wait for an answer.
func alive(c Conn) bool {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		t, ok := c.(interface{ Connected() bool })
		return !ok || t.Connected()
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return false
	}
	is := false
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		is = err == nil && info.State != tcpClose
	})
	return err == nil && is
}
