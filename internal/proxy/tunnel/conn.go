package tunnel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// lingering bounds how long a closed connection is waited for, to be used again.
	lingering      = 2 * time.Second
	lingeringBytes = 256 << 10
	// datagramQueue is how many datagrams wait for the TLS connection before further ones are dropped, as a full socket
	// would.
	datagramQueue = 64
)

// ErrReset is what a connection that the other end has reset, or that was lost, is read and written with.
var ErrReset = fmt.Errorf("tunnel: %w", syscall.ECONNRESET)

// Conn is one tunnelled connection, at either end. Of a UDP destination, each Write is a datagram and each Read returns
// one; those that find no place are dropped. Its methods may be called by any goroutine.
type Conn struct {
	link        *link
	destination Destination
	released    func(reusable bool) // called once, when nothing of the connection uses the link any more
	queue       chan []byte         // of datagrams; nil for TCP
	sending     sync.WaitGroup      // of who empties the queue
	done        chan struct{}       // closed by Close or Reset

	closed  atomic.Bool
	dropped atomic.Uint64

	rmu    sync.Mutex // of those who read
	remain int        // bytes of a frame that are still to be read
	part   []byte     // of a datagram that has not come as a whole
	filled int
	rerr   error // sticky; io.EOF after the other side's end

	wstate sync.Mutex // guards wended
	wended bool       // this side's end was sent
	broken atomic.Bool

	dmu sync.Mutex // of deadlines: after Close they belong to closing
}

func newConn(l *link, d Destination, released func(bool)) *Conn {
	c := &Conn{link: l, destination: d, released: released, done: make(chan struct{})}
	if d.UDP {
		c.queue = make(chan []byte, datagramQueue)
		c.sending.Go(c.send)
	}
	return c
}

// Destination is what the connection is for.
func (c *Conn) Destination() Destination { return c.destination }

// Fresh is until when something new, such as a request, may be begun on the connection: after it, the certificates may end
// by which the two sides know each other. What is under way goes on.
func (c *Conn) Fresh() time.Time { return c.link.fresh }

// Dropped is how many datagrams found no place.
func (c *Conn) Dropped() uint64 { return c.dropped.Load() }

// Alive says that the other end was not lost, as far as reading and writing have found.
func (c *Conn) Alive() bool { return !c.broken.Load() }

// Done is closed when this end has closed or reset the connection.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Buffered is how many bytes have come that nobody has read. It is for connections that nobody reads at the moment.
func (c *Conn) Buffered() int {
	if !c.rmu.TryLock() {
		return 0
	}
	defer c.rmu.Unlock()
	return c.remain + c.link.r.Buffered()
}

// SyscallConn gives the socket below, to look at.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	s, ok := c.link.tls.NetConn().(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return s.SyscallConn() //nolint:wrapcheck // net's own words
}

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	n, err := c.read(b)
	if err != nil && c.closed.Load() {
		err = net.ErrClosed
	}
	return n, err
}

// Await waits until there is something to read, or an error, which it returns. Whoever waits by it needs no buffer yet.
func (c *Conn) Await() error {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	err := c.await()
	if err != nil && c.closed.Load() {
		err = net.ErrClosed
	}
	return err
}

// await is Await for the holder of rmu.
func (c *Conn) await() error {
	if c.rerr != nil {
		return c.rerr
	}
	for c.remain == 0 && c.part == nil {
		k, n, err := c.link.header()
		if err != nil {
			return c.fail(err)
		}
		switch {
		case k == kindData && c.queue != nil:
			c.part, c.filled = make([]byte, n), 0
		case k == kindData:
			c.remain = n
		case k == kindEnd && n == 0:
			c.rerr = io.EOF
			return io.EOF
		default:
			return c.fail(errProtocol)
		}
	}
	return nil
}

// read is Read for the holder of rmu.
func (c *Conn) read(b []byte) (int, error) {
	if err := c.await(); err != nil {
		return 0, err
	}
	if c.part != nil {
		return c.datagram(b)
	}
	n, err := c.link.r.Read(b[:min(len(b), c.remain)])
	c.remain -= n
	if err != nil {
		err = c.fail(ended(err))
	}
	return n, err
}

// datagram reads the rest of one. What of it doesn't fit in b is lost, as with a socket.
func (c *Conn) datagram(b []byte) (int, error) {
	for c.filled < len(c.part) {
		n, err := c.link.r.Read(c.part[c.filled:])
		c.filled += n
		if err != nil {
			return 0, c.fail(ended(err))
		}
	}
	n := copy(b, c.part)
	c.part = nil
	return n, nil
}

// fail makes an error of reading sticky, unless it is one of time.
func (c *Conn) fail(err error) error {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		c.rerr = err
		c.broken.Store(true)
	}
	return err
}

// Write implements net.Conn.
func (c *Conn) Write(b []byte) (int, error) {
	switch {
	case c.closed.Load():
		return 0, net.ErrClosed
	case c.queue != nil:
		return c.enqueue(b)
	}
	written := 0
	for len(b) > 0 {
		n := min(len(b), maxRecord-headerLen)
		if err := c.frame(kindData, b[:n]); err != nil {
			return written, err
		}
		written, b = written+n, b[n:]
	}
	return written, nil
}

// frame sends one frame of this side, which must not have ended.
func (c *Conn) frame(k kind, b []byte) error {
	c.wstate.Lock()
	defer c.wstate.Unlock()
	if c.wended {
		return syscall.EPIPE
	}
	if c.broken.Load() {
		return ErrReset
	}
	if err := c.link.write(k, b); err != nil {
		c.broken.Store(true) // part of a record may be out
		return err
	}
	c.wended = k != kindData
	return nil
}

func (c *Conn) enqueue(b []byte) (int, error) {
	if len(b) > maxFrame {
		return 0, syscall.EMSGSIZE
	}
	if c.broken.Load() {
		return 0, ErrReset
	}
	select {
	case c.queue <- append([]byte(nil), b...):
	default:
		c.dropped.Add(1)
	}
	return len(b), nil
}

// send writes queued datagrams until the connection is closed, and then those that are left.
func (c *Conn) send() {
	for done := c.done; ; {
		select {
		case b := <-c.queue:
			if c.frame(kindData, b) != nil {
				return
			}
			continue
		default:
		}
		if done == nil {
			return
		}
		select {
		case b := <-c.queue:
			if c.frame(kindData, b) != nil {
				return
			}
		case <-done:
			done = nil
		}
	}
}

// CloseWrite ends this direction; the other one goes on.
func (c *Conn) CloseWrite() error {
	if c.closed.Load() {
		return net.ErrClosed
	}
	return c.frame(kindEnd, nil)
}

// Close ends the connection. It doesn't wait; what was written arrives.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	close(c.done)
	c.interrupt()
	go c.finish()
	return nil
}

// Reset ends the connection, and the link with it, so that the other end doesn't take it for an orderly end.
func (c *Conn) Reset() {
	if c.closed.Swap(true) {
		return
	}
	c.broken.Store(true)
	close(c.done)
	c.lost()
}

// abandon is for a connection that was refused: the link is free as it is.
func (c *Conn) abandon() {
	if !c.closed.Swap(true) {
		close(c.done)
	}
}

// interrupt wakes who reads or writes.
func (c *Conn) interrupt() {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	_ = c.link.tls.SetReadDeadline(time.Now().Add(-time.Second))
	_ = c.link.tls.SetWriteDeadline(time.Now().Add(lingering))
}

// finish ends this direction and waits a little for the other's end, so that the link can be used again.
func (c *Conn) finish() {
	c.sending.Wait()
	err := c.frame(kindEnd, nil)
	if err != nil && !errors.Is(err, syscall.EPIPE) {
		c.lost()
		return
	}
	c.rmu.Lock()
	defer c.rmu.Unlock()
	if c.broken.Load() {
		c.lost()
		return
	}
	_ = c.link.tls.SetReadDeadline(time.Now().Add(lingering))
	b := make([]byte, 4<<10)
	for total := 0; total < lingeringBytes; {
		n, err := c.read(b)
		total += n
		if errors.Is(err, io.EOF) && !c.broken.Load() {
			c.reuse()
			return
		}
		if err != nil {
			break
		}
	}
	c.lost()
}

func (c *Conn) reuse() {
	if c.link.tls.SetDeadline(time.Time{}) != nil {
		c.lost()
		return
	}
	c.released(true)
}

func (c *Conn) lost() {
	c.link.close()
	c.released(false)
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.link.tls.LocalAddr() }

// RemoteAddr implements net.Conn: the other proxy's address.
func (c *Conn) RemoteAddr() net.Addr { return c.link.tls.RemoteAddr() }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	return c.deadline(c.link.tls.SetReadDeadline, t)
}

// SetWriteDeadline implements net.Conn. A write that misses its deadline breaks the connection: part of it may be out.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if c.queue != nil {
		return nil // writing never waits
	}
	return c.deadline(c.link.tls.SetWriteDeadline, t)
}

func (c *Conn) deadline(set func(time.Time) error, t time.Time) error {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	if c.closed.Load() {
		return net.ErrClosed
	}
	return set(t)
}
