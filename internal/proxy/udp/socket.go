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
	message
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

// destination reads the control message in which the kernel says where a datagram was sent to.
func destination(control []byte) netip.Addr {
	for len(control) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(control)
		switch {
		case err != nil:
			return netip.Addr{}
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= 12:
			return netip.AddrFrom4([4]byte(data[8:12])) // struct in_pktinfo: index, local address, destination
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= 16:
			return netip.AddrFrom16([16]byte(data[:16]))
		}
		control = rest
	}
	return netip.Addr{}
}

// source is the control message by which send sends from an address; nil if that is not valid.
func source(from netip.Addr) []byte {
	switch {
	case !from.IsValid():
		return nil
	case from.Unmap().Is4():
		return (&ipv4.ControlMessage{Src: net.IP(from.Unmap().AsSlice())}).Marshal()
	}
	return (&ipv6.ControlMessage{Src: net.IP(from.AsSlice())}).Marshal()
}

// send sends a payload, from what source has made of an address.
func (s *socket) send(payload []byte, to netip.AddrPort, source []byte) error {
	_, _, err := s.conn.WriteMsgUDPAddrPort(payload, source, to)
	return err //nolint:wrapcheck // counts as a lost datagram
}
