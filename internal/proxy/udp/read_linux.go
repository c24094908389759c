package udp

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// message is what the kernel is told and tells of a datagram. It is in the datagram, as it would be made anew for each.
type message struct {
	header  unix.Msghdr
	vector  unix.Iovec
	address unix.RawSockaddrInet6 // or unix.RawSockaddrInet4, which is smaller
}

// read reads a datagram. x/sys' Recvmsg makes its address anew, and asks the kernel a second time what protocol it is of.
func (s *socket) read(fd int, d *datagram) error {
	d.vector.Base = &d.data[0]
	d.vector.SetLen(len(d.data))
	d.header = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&d.address)), Namelen: unix.SizeofSockaddrInet6, Iov: &d.vector} // #nosec G103
	d.header.SetIovlen(1)
	if s.wildcard {
		d.header.Control = &s.oob[0]
		d.header.SetControllen(len(s.oob))
	}
	n, _, errno := unix.Syscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&d.header)), 0) // #nosec G103
	if errno != 0 {
		return errno
	}
	d.n, d.from, d.to = int(n), d.sender(), netip.Addr{} // #nosec G115
	if s.wildcard {
		d.to = destination(s.oob[:d.header.Controllen])
	}
	return nil
}

// sender is the address that a datagram came from.
func (m *message) sender() netip.AddrPort {
	if m.header.Namelen == 0 {
		return netip.AddrPort{}
	}
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&m.address.Port))[:]) // #nosec G103
	if m.address.Family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(&m.address)).Addr), port) // #nosec G103
	}
	ip := netip.AddrFrom16(m.address.Addr)
	if zone := m.address.Scope_id; zone != 0 {
		ip = ip.WithZone(strconv.FormatUint(uint64(zone), 10))
	}
	return netip.AddrPortFrom(ip, port)
}
