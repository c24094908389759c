package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// maxDatagram is more than the largest UDP payload, 65,507 bytes.
const maxDatagram = 64 << 10

var buffers = sync.Pool{New: func() any { return new(datagram) }}

// datagram is one datagram and where it came from and went to.
type datagram struct {
	from netip.AddrPort
	to   netip.Addr // not valid if the socket has one address only
	n    int
	data [maxDatagram]byte
}

func (d *datagram) payload() []byte { return d.data[:d.n] }

func (d *datagram) free() { buffers.Put(d) }

// socket reads without holding a buffer while there is nothing to read, as there may be thousands of sockets.
type socket struct {
	conn     *net.UDPConn
	raw      syscall.RawConn
	wildcard bool // the kernel says which of the host's addresses a datagram was sent to
	oob      []byte
}

func newSocket(c *net.UDPConn) (*socket, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("read socket: %w", err)
	}
	s := &socket{conn: c, raw: raw}
	if local := c.LocalAddr().(*net.UDPAddr); local.IP.IsUnspecified() {
		s.wildcard = true
		s.oob = make([]byte, 128)
		// A socket of both families needs both; one of IPv4 takes the first only.
		err4 := ipv4.NewPacketConn(c).SetControlMessage(ipv4.FlagDst, true)
		err6 := ipv6.NewPacketConn(c).SetControlMessage(ipv6.FlagDst, true)
		if err4 != nil && err6 != nil {
			return nil, fmt.Errorf("ask for destination addresses: %w", errors.Join(err4, err6))
		}
	}
	return s, nil
}

// receive waits for a datagram, which the caller frees.
func (s *socket) receive() (*datagram, error) {
	var d *datagram
	var err error
	rawErr := s.raw.Read(func(fd uintptr) bool {
		d = buffers.Get().(*datagram)
		for err = unix.EINTR; errors.Is(err, unix.EINTR); {
			err = s.read(int(fd), d)
		}
		if err == nil {
			return true
		}
		d.free()
		d = nil
		return !errors.Is(err, unix.EAGAIN)
	})
	if rawErr != nil {
		return nil, rawErr //nolint:wrapcheck // net's own words
	}
	return d, err
}

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
			ip = ip.WithZone(fmt.Sprint(a.ZoneId))
		}
		d.from = netip.AddrPortFrom(ip, uint16(a.Port))
	}
	if s.wildcard {
		d.to = destination(s.oob[:oobn])
	}
	return nil
}

// destination reads the control message in which the kernel says where a datagram was sent to.
func destination(oob []byte) netip.Addr {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.Addr{}
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= 12:
			return netip.AddrFrom4([4]byte(m.Data[8:12])) // struct in_pktinfo: index, local address, destination
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= 16:
			return netip.AddrFrom16([16]byte(m.Data[:16]))
		}
	}
	return netip.Addr{}
}

// send sends a payload, from the given address if it is valid.
func (s *socket) send(payload []byte, to netip.AddrPort, from netip.Addr) error {
	var oob []byte
	switch {
	case !from.IsValid():
	case from.Unmap().Is4():
		oob = (&ipv4.ControlMessage{Src: net.IP(from.Unmap().AsSlice())}).Marshal()
	default:
		oob = (&ipv6.ControlMessage{Src: net.IP(from.AsSlice())}).Marshal()
	}
	_, _, err := s.conn.WriteMsgUDPAddrPort(payload, oob, to)
	return err //nolint:wrapcheck // counts as a lost datagram
}
