// Package sockettest makes connections for tests.
package sockettest

import (
	"net"
	"testing"
	"time"
)

// Pair is the two ends of a connection on the loopback. They are closed at the end of the test, and what waits for either
// fails after 10 s, unless the test sets another deadline.
func Pair(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	other, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	for _, c := range []net.Conn{c, other} {
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	return c.(*net.TCPConn), other.(*net.TCPConn)
}
