package tunnel

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// protocol is what both sides name in the handshake. Another number is another way to frame.
const protocol = "tulle-tunnel/1"

// Destination is what a tunnelled connection is for. All of it is judged by the destination's proxy, by its own config.
type Destination struct {
	UDP     bool           `json:"udp,omitempty"`
	Address netip.AddrPort `json:"address"` // the pod's, and the port behind the Service's
	Pod     string         `json:"pod"`     // "namespace/name"
	Service string         `json:"service"` // "namespace/name" that exposes the port, "/pod" after it for a unit of one pod
	Port    uint16         `json:"port"`    // the Service's
	// HTTP says that requests are to be judged one by one, rather than the connection.
	HTTP bool `json:"http,omitempty"`
	// Scheme is how HTTP is spoken to the pod: "" for HTTP/1, "h2c" or "https".
	Scheme string `json:"scheme,omitempty"`
	// EncodedSlash says that the Service that was called takes %2F in paths as it is.
	EncodedSlash bool `json:"encodedSlash,omitempty"`
}

func (d Destination) String() string {
	network := "tcp"
	if d.UDP {
		network = "udp"
	}
	return fmt.Sprintf("%s %s (pod %s, port %d of %s)", network, d.Address, d.Pod, d.Port, d.Service)
}

type kind byte

const (
	kindOpen     kind = iota + 1 // caller to destination: a Destination as JSON
	kindAccepted                 // destination to caller
	kindRefused                  // destination to caller: a Reason
	kindData                     // bytes, or one datagram
	kindEnd                      // no more data from this side
)

const (
	headerLen = 3
	maxFrame  = 1<<16 - 1
	// maxRecord is what one TLS record holds: a frame of a stream fits in.
	maxRecord   = 16 << 10
	maxPreamble = 2 << 10
)

// link is a TLS connection in frames. One goroutine reads at a time, and one writes.
type link struct {
	tls   *tls.Conn
	r     *bufio.Reader
	fresh time.Time // until when anything new is begun on it

	wmu sync.Mutex // of those who write
}

func newLink(c *tls.Conn, expires time.Time) *link {
	// A quarter is left for what was begun last: it must not be judged by a certificate that has ended meanwhile.
	return &link{tls: c, r: bufio.NewReaderSize(c, 4<<10), fresh: time.Now().Add(time.Until(expires) / 4 * 3)}
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, maxRecord); return &b }}

// write sends one frame.
func (l *link) write(k kind, content []byte) error {
	p := buffers.Get().(*[]byte)
	defer buffers.Put(p)
	b := append((*p)[:0], byte(k), 0, 0)
	binary.BigEndian.PutUint16(b[1:], uint16(len(content)))
	b = append(b, content...)
	*p = b
	l.wmu.Lock()
	defer l.wmu.Unlock()
	_, err := l.tls.Write(b)
	return err
}

// header reads the next frame's head. After a timeout it may be called again.
func (l *link) header() (kind, int, error) {
	b, err := l.r.Peek(headerLen)
	if err != nil {
		return 0, 0, ended(err)
	}
	k, n := kind(b[0]), int(binary.BigEndian.Uint16(b[1:]))
	_, err = l.r.Discard(headerLen)
	return k, n, err
}

// message reads a whole frame of a handshake.
func (l *link) message() (kind, []byte, error) {
	k, n, err := l.header()
	if err != nil {
		return 0, nil, err
	}
	if n > maxPreamble {
		return 0, nil, fmt.Errorf("%w: a preamble of %d bytes", errProtocol, n)
	}
	b := make([]byte, n)
	_, err = io.ReadFull(l.r, b)
	return k, b, ended(err)
}

// ended makes an end of the TLS connection what it is here: a connection that is lost.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return ErrReset
	}
	return err
}

// close ends the TLS connection without waiting for anything.
func (l *link) close() {
	// The alert that Close sends may block on a peer that doesn't read.
	_ = l.tls.SetWriteDeadline(time.Now().Add(-time.Second))
	l.tls.Close()
}

var errProtocol = errors.New("tunnel protocol error")

func encode(d Destination) ([]byte, error) {
	b, err := json.Marshal(d)
	if err == nil && len(b) > maxPreamble {
		err = errors.New("the names are too long")
	}
	if err != nil {
		return nil, fmt.Errorf("encode destination: %w", err)
	}
	return b, nil
}

func decode(b []byte) (Destination, error) {
	var d Destination
	if err := json.Unmarshal(b, &d); err != nil {
		return Destination{}, fmt.Errorf("%w: %w", errProtocol, err)
	}
	if !d.Address.IsValid() || d.Address.Port() == 0 || d.Pod == "" || d.Service == "" || d.Port == 0 {
		return Destination{}, fmt.Errorf("%w: half a destination", errProtocol)
	}
	d.Address = netip.AddrPortFrom(d.Address.Addr().Unmap(), d.Address.Port())
	return d, nil
}

// keepAlive finds peers that are gone without a word, also of connections that are silent for hours.
func keepAlive(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		// An error means that the connection is gone, which reading will say.
		_ = t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3})
	}
}
