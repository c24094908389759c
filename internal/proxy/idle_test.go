//go:build linux

package proxy_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"runtime/metrics"
	"testing"

	"golang.org/x/sys/unix"
)

// What idle TCP connections hold is two goroutines that have done nothing else, and what the proxy knows of them. The
// clients' and the endpoint's ends are bare descriptors here, which take nothing of what is measured.
func TestIdleTCPConnectionsAreSmall(t *testing.T) {
	const most = 9 << 10 // bytes for each; it was 7 KiB when this was written, and 14 KiB with the stacks of who had dialed
	m := start(t)
	server, address := bareListener(t)
	front := netip.MustParseAddrPort(m.serve("db", tcpPort, address))
	connect := func() {
		client := bareConn(t, front)
		bareSay(t, client, "hello")
		up, _, err := unix.Accept4(server, unix.SOCK_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(up) })
		bareExpect(t, up, "hello")
		bareSay(t, up, "welcome")
		bareExpect(t, client, "welcome")
	}
	for range 20 { // what is made once
		connect()
	}
	n := idleConnections(t)
	heap, stacks := memory()
	for range n {
		connect()
	}
	heap2, stacks2 := memory()
	perHeap, perStack := int(heap2-heap)/n, int(stacks2-stacks)/n
	t.Logf("%d connections, each with %d bytes of heap and %d of stacks", n, perHeap, perStack)
	if perHeap+perStack > most {
		t.Errorf("%d bytes each", perHeap+perStack)
	}
}

// idleConnections is for how many connections there are files: four ends each.
func idleConnections(t *testing.T) int {
	t.Helper()
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	return int(min(2000, (files.Cur-200)/4))
}

// memory is how many bytes are in use.
func memory() (heap, stacks uint64) {
	runtime.GC()
	runtime.GC() // the first one left what sync.Pools had
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64(), s[1].Value.Uint64()
}

func bareSocket(t *testing.T) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func bareListener(t *testing.T) (fd int, address string) {
	t.Helper()
	fd = bareSocket(t)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 16); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fd, fmt.Sprintf("127.0.0.1:%d", at.(*unix.SockaddrInet4).Port)
}

func bareConn(t *testing.T, to netip.AddrPort) int {
	t.Helper()
	fd := bareSocket(t)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}); err != nil {
		t.Fatal(err)
	}
	return fd
}

func bareSay(t *testing.T, fd int, s string) {
	t.Helper()
	if _, err := unix.Write(fd, []byte(s)); err != nil {
		t.Fatal(err)
	}
}

func bareExpect(t *testing.T, fd int, s string) {
	t.Helper()
	b := make([]byte, len(s))
	if n, err := unix.Read(fd, b); err != nil || string(b[:n]) != s {
		t.Fatalf("%q, %v instead of %q", b[:n], err, s)
	}
}
