package socket

import (
	"syscall"
	"unsafe"
)

// What is for sockets only costs the kernel less than what is for all files.
func read(fd uintptr, p []byte) (int, syscall.Errno) { return call(syscall.SYS_RECVFROM, fd, p, 0) }

func peek(fd uintptr, p []byte) (int, syscall.Errno) {
	return call(syscall.SYS_RECVFROM, fd, p, syscall.MSG_PEEK)
}

func write(fd uintptr, p []byte) (int, syscall.Errno) {
	return call(syscall.SYS_SENDTO, fd, p, syscall.MSG_NOSIGNAL)
}

// call makes a system call that Go's scheduler is not told of. Telling it is for calls that may wait, as others can run
// meanwhile. It costs a part of what a call of some microseconds does, and if the thread has to wait for its CPU just then,
// the scheduler finds another one for the processor, which is work for nothing: this call can't wait.
func call(number, fd uintptr, p []byte, flags uintptr) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(number, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), flags, 0, 0)
		switch errno {
		case 0:
			return int(n), 0
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}
