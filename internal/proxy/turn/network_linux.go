package turn

import (
	"encoding/binary"
	"os"
	"runtime"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// network is asked by an event that only the answer brings back: Go waits for files as it does for connections.
type network struct {
	mu     sync.Mutex
	file   *os.File // an eventfd; guarded by mu
	raw    syscall.RawConn
	closed bool // or can't be opened; guarded by mu
}

// one is an event as the kernel wants it written. It adds them up, and 64 bits are never full.
var one = binary.NativeEndian.AppendUint64(nil, 1)

// look is called by one goroutine at a time.
func (n *network) look() {
	raw := n.open()
	if raw == nil {
		runtime.Gosched() // all that could run has, at least
		return
	}
	written := false
	// Go has forgotten earlier events by now, and the kernel tells each.
	_ = raw.Read(func(fd uintptr) (done bool) { // fails once it is closed
		if written {
			return true
		}
		// A call that Go is told of wakes its monitor, who would look every twenty microseconds for some milliseconds, and so
		// always, as rounds go. Who runs for so long that the monitor has to end it has made such a call before: config,
		// HTTP/2 and new connections come by the net package.
		_, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(one))), uintptr(len(one)))
		written = errno == 0
		return !written
	})
	if !written {
		runtime.Gosched()
	}
}

func (n *network) open() syscall.RawConn {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.raw != nil || n.closed {
		return n.raw
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil // for want of files, perhaps, of which there may be some the next time
	}
	n.file = os.NewFile(uintptr(fd), "eventfd") // #nosec G115 -- not negative
	if n.raw, err = n.file.SyscallConn(); err != nil {
		n.file.Close()
		n.raw, n.closed = nil, true
	}
	return n.raw
}

func (n *network) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.file != nil {
		n.file.Close()
	}
	n.file, n.raw, n.closed = nil, nil, true
}
