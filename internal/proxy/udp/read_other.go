//go:build !linux

package udp

import (
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

type message struct{}

// read reads a datagram.
func (s *socket) read(fd int, d *datagram) error {
	n, oobn, _, from, err := unix.Recvmsg(fd, d.data[:], s.oob, 0)
	if err != nil {
		return err //nolint:wrapcheck // an errno
	}
	d.n, d.to = n, netip.Addr{}
	switch a := from.(type) {
	case *unix.SockaddrInet4:
		d.from = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		ip := netip.AddrFrom16(a.Addr)
		if a.ZoneId != 0 {
			ip = ip.WithZone(strconv.FormatUint(uint64(a.ZoneId), 10))
		}
		d.from = netip.AddrPortFrom(ip, uint16(a.Port))
	}
	if s.wildcard {
		d.to = destination(s.oob[:oobn])
	}
	return nil
}
