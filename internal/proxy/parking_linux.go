package proxy

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// parking is where listeners wait that nobody calls: a goroutine for each of thousands would be most of what an idle
// proxy holds. The kernel says which of them is called, and that one gets a goroutine. The zero value is closed.
type parking struct {
	mu     sync.Mutex
	file   *os.File            // of an epoll instance; nil = closed; guarded by mu, as all below
	epoll  syscall.RawConn     // its descriptor
	parked map[int32]*listener // by file descriptor
}

// open opens the parking. It is false if that was done before.
func (k *parking) open() (opened bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.file != nil {
		return false, nil
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return false, fmt.Errorf("make an epoll instance: %w", err)
	}
	// With this Go's poller waits for it as for any other file.
	err = unix.SetNonblock(fd, true)
	file := os.NewFile(uintptr(fd), "epoll")
	epoll, err2 := file.SyscallConn()
	if err = errors.Join(err, err2); err != nil {
		file.Close()
		return false, fmt.Errorf("use an epoll instance: %w", err)
	}
	k.file, k.epoll, k.parked = file, epoll, map[int32]*listener{}
	return true, nil
}

// run calls wake for each parked listener that is called, which is not parked any more then, until the parking is closed.
func (k *parking) run(wake func(*listener)) {
	k.mu.Lock()
	epoll := k.epoll
	k.mu.Unlock()
	events := make([]unix.EpollEvent, 128)
	for epoll != nil {
		n := 0
		if epoll.Read(func(fd uintptr) bool { n = ready(int(fd), events); return n > 0 }) != nil {
			return
		}
		for _, e := range events[:n] {
			if o := k.take(e.Fd); o != nil {
				wake(o)
			}
		}
	}
}

// ready looks for events, without waiting for any.
func ready(epoll int, events []unix.EpollEvent) int {
	for {
		n, err := unix.EpollWait(epoll, events, 0)
		if !errors.Is(err, unix.EINTR) {
			return max(n, 0)
		}
	}
}

func (k *parking) take(fd int32) *listener {
	k.mu.Lock()
	defer k.mu.Unlock()
	o := k.parked[fd]
	delete(k.parked, fd)
	return o
}

// park lets a listener wait. It is false if that can't be done.
func (k *parking) park(o *listener) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.file == nil || o.closed {
		return false
	}
	op := unix.EPOLL_CTL_MOD
	if o.raw == nil {
		c, ok := o.tcp.(syscall.Conn)
		if !ok {
			return false
		}
		raw, err := c.SyscallConn()
		if err != nil {
			return false
		}
		o.raw, op = raw, unix.EPOLL_CTL_ADD
	}
	return k.control(o, op, func(fd int32) { k.parked[fd] = o }) == nil
}

// remove is called before a listener is closed: as long as the holder has its socket, the kernel doesn't forget by itself
// that somebody waits for it.
func (k *parking) remove(o *listener) {
	k.mu.Lock()
	defer k.mu.Unlock()
	o.closed = true
	if k.file == nil || o.raw == nil {
		return
	}
	_ = k.control(o, unix.EPOLL_CTL_DEL, func(fd int32) { // an error means that nobody waits for it
		if k.parked[fd] == o {
			delete(k.parked, fd)
		}
	})
}

// control changes what is waited for, and calls done if that went well.
func (k *parking) control(o *listener, op int, done func(fd int32)) error {
	var err error
	outer := k.epoll.Control(func(epoll uintptr) {
		inner := o.raw.Control(func(fd uintptr) {
			e := &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(fd)} // #nosec G115
			if err = unix.EpollCtl(int(epoll), op, int(fd), e); err == nil {
				done(e.Fd)
			}
		})
		err = errors.Join(err, inner)
	})
	return errors.Join(err, outer)
}

// close ends run. What is parked is not woken any more.
func (k *parking) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.file != nil {
		k.file.Close()
		k.file, k.epoll, k.parked = nil, nil, nil
	}
}
