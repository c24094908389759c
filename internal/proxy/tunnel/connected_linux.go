package tunnel

import "golang.org/x/sys/unix"

// Connected says that the other end has not closed or lost the connection below, as far as the kernel knows. It is for
// who doesn't read, and so would not find out.
func (c *Conn) Connected() bool {
	raw, err := c.SyscallConn()
	if err != nil || c.broken.Load() {
		return false
	}
	const established = 1 // TCP_ESTABLISHED of the kernel's enum of TCP states
	is := false
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		is = err == nil && info.State == established
	})
	return err == nil && is
}
