package upstream

import "golang.org/x/sys/unix"

// quiet says that a read would wait: there is no data, no end and no error.
func quiet(fd uintptr) bool {
	var b [1]byte
	_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return err == unix.EAGAIN
}
