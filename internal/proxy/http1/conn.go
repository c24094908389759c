package http1

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/exchange"
	"github.com/tulle-mesh/tulle/internal/proxy/meter"
	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/share"
	"github.com/tulle-mesh/tulle/internal/proxy/socket"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// conn is a connection from a client. It belongs to the goroutine that serves it; what others touch says so.
type conn struct {
	server  *Server
	tcp     Conn
	plain   *socket.Conn // nil if the client is at the end of a tunnel
	out     io.Writer    // to tcp
	client  exchange.Client
	share   *share.Account // that the connection counts for
	counted meter.Cache

	in    []byte // what was read and is not done with: the request's head, and what is behind it
	head  int    // length of the head
	inErr error
	first bool // nothing was served yet
	whole bool // the head was read and is to be served

	x          exchange.Exchange
	request    request
	response   response
	reqBody    source // from the client
	toUp       sink
	unsent     bool   // the request is sent together with the wait for the answer
	upBody     source // from the endpoint
	toClient   sink
	answer     []byte // what was read of the endpoint's answer
	awaited    bool   // there was nothing, when it was read last
	heard      bool   // there was something
	upErr      error
	pumped     chan struct{} // the body's own goroutine has ended
	pumping    bool
	pumpFailed bool  // known once pumped
	bodyErr    error // why the request's body could not be read, known once pumped

	begun   bool // the answer's head was sent
	closing bool // this request is the last one
	linger  bool // the client may still be sending
	over    bool // the connection is not ours any more, or of no use

	phase  atomic.Int64                  // see setPhase; shared with the sweeper
	unsure atomic.Bool                   // see left; shared with the sweeper
	up     atomic.Pointer[upstream.Conn] // what interrupt interrupts
	cause  atomic.Int32                  // why the exchange was interrupted

	mu     sync.Mutex // held by interrupt
	seq    uint64     // of the exchange; guarded by mu
	cancel context.CancelFunc

	// Made once, as making them takes memory.
	readIn, readAnswer func(fd uintptr) bool
	values             func(name string) []string
}

// The causes of interruptions.
const (
	timeout   int32 = iota + 1 // the service's time limit
	gone                       // the client has reset the connection
	badBody                    // the request's body can't be read to its end
	closed                     // the server ends
	cancelled                  // by the fallback
)

func newConn(s *Server, tcp Conn, b *route.Binding, a *share.Account) *conn {
	c := &conn{server: s, tcp: tcp, out: tcp, share: a, first: true}
	c.client = exchange.NewClient(tcp, b, a)
	c.client.Counted = &c.counted
	c.readIn = func(fd uintptr) (done bool) {
		c.unsure.Store(false)
		for full := true; full; {
			c.in, c.inErr, done = readFirst(fd, smallBuffer)
			if !done || c.inErr != nil || c.first {
				return done
			}
			full = len(c.in) == cap(c.in) // there may be more, and nobody would say so again
			if c.serveMeanwhile() {
				return true
			}
		}
		c.unsure.Store(true)
		return false
	}
	c.readAnswer = func(fd uintptr) (done bool) {
		if c.awaited {
			c.client.Share.TurnToGoOn()
		}
		c.answer, c.upErr, done = readFirst(fd, largeBuffer)
		c.awaited = !done
		return done
	}
	c.values = c.request.Values
	c.phase.Store(s.now() + int64(s.config.HeaderTimeout))
	return c
}

func (c *conn) serve() {
	defer c.leave()
	defer c.recover()
	if tcp, ok := c.tcp.(*net.TCPConn); ok {
		raw, err := tcp.SyscallConn()
		if err != nil {
			return
		}
		c.plain = socket.New(raw)
		c.out = c.plain
	}
	for c.next() && c.exchange() {
	}
	if c.linger && !c.over {
		c.lingerOn()
	}
}

func (c *conn) leave() {
	c.server.leave(c)
	c.share.Disconnect()
	if !c.over {
		c.tcp.Close()
	}
}

// recover ends a panic: it costs the connection.
func (c *conn) recover() {
	p := recover()
	if p == nil {
		return
	}
	c.server.panicked(p, debug.Stack())
	c.interrupt(closed)
	c.x.Reason = refusal.Internal
	if !c.begun && !c.over && c.x.Mesh != nil {
		c.closing = true
		c.refuse(refusal.Internal)
	}
	if c.x.Mesh != nil {
		c.x.End()
	}
}

// A phase is a positive time at which a wait for the client ends, or the negative time since when the connection is
// busy. Times are the server's.
const (
	expired  = math.MinInt64 // the wait has ended
	phaseEnd = math.MaxInt64 // later than any wait's end
)

// setPhase begins the next phase. It is false if the one before had ended, and the connection with it.
func (c *conn) setPhase(p int64) bool { return c.phase.Swap(p) != expired }

// expire ends a wait that should end before now.
func (c *conn) expire(now int64) {
	if p := c.phase.Load(); p > 0 && p < now && c.phase.CompareAndSwap(p, expired) {
		_ = c.tcp.SetReadDeadline(past) // fails on a connection that is closed
	}
}

// left says that the client has ended its half and waits for no answer, which nobody else will notice: if the end came
// along with a request, the wait for the next one has begun without a read, and the kernel tells of it once.
func (c *conn) left() bool {
	// Whoever has begun to read since the first look isn't unsure: what was there to read, Ended has perhaps not seen.
	return c.unsure.Load() && c.plain.Ended() && c.unsure.Load()
}

// errOver says that the connection's last request was served.
var errOver = errors.New("the connection is over")

// past is a deadline that ends what is waiting.
var past = time.Unix(1, 0)

// preface is what HTTP/2 begins with (RFC 9113, 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// next reads the head of the next request. It is false when there is none; what had to be said about that was said.
func (c *conn) next() bool {
	seen := -1         // how much of a head that is not whole was looked at
	waiting := c.first // a connection's first head has its time limit from the beginning
	for {
		if len(c.in) > 0 {
			if c.first && c.perhapsHTTP2() {
				if len(c.in) >= len(preface) {
					c.handOver()
					return false
				}
			} else if done, ok := c.parse(&seen); done {
				return ok
			}
			if !waiting && !c.setPhase(c.server.now()+int64(c.server.config.HeaderTimeout)) {
				return false
			}
			waiting = true
		}
		if err := c.more(); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) && len(c.in) > 0 {
				c.refuseHead(refusal.HeadTimeout)
			}
			return false
		}
		if c.whole {
			c.whole = false
			return true
		}
	}
}

// serveMeanwhile serves requests as a part of the wait for the next one, which so needn't read in vain to begin. It is done
// when more is to be read for a request, or nothing more is.
func (c *conn) serveMeanwhile() (done bool) {
	for len(c.in) > 0 {
		seen := -1
		switch parsed, ok := c.parse(&seen); {
		case !parsed:
			return true
		case ok && (c.request.body.framing != none || c.request.upgrade != nil):
			c.whole = true
			return true
		case !ok || !c.exchange():
			c.inErr = errOver
			return true
		}
	}
	return false
}

// perhapsHTTP2 says that what was read is HTTP/2's preface as far as it goes.
func (c *conn) perhapsHTTP2() bool {
	n := min(len(c.in), len(preface))
	return string(c.in[:n]) == preface[:n]
}

// parse reads the head if it is whole. A head that comes in pieces is not gone through again for each of them.
func (c *conn) parse(seen *int) (done, ok bool) {
	l := &c.server.limits
	if before := *seen; before >= 0 {
		*seen = len(c.in)
		end, err := headEnd(c.in, before)
		if err != nil {
			c.refuseHead(refusal.BadRequest)
			return true, false
		}
		if end == 0 && len(c.in) <= l.Head && (before > l.Line || len(c.in) <= l.Line) {
			return false, false
		}
	}
	*seen = len(c.in)
	n, err := c.request.parse(c.in, *l)
	if err != nil {
		c.refuseHead(reasonOf(err))
		return true, false
	}
	c.head = n
	return n > 0, n > 0
}

// more waits for more of a head. No buffer is held while there is nothing.
func (c *conn) more() error {
	if c.in == nil && c.plain == nil {
		c.in = takeBuffer(smallBuffer)[:0]
	}
	if c.in == nil {
		if err := c.plain.Hold(c.readIn); err != nil {
			return err //nolint:wrapcheck // says all
		}
		return c.inErr
	}
	if len(c.in) == cap(c.in) {
		b := takeBuffer(2 * cap(c.in))[:len(c.in)]
		copy(b, c.in)
		freeBuffer(c.in)
		c.in = b
	}
	n, err := c.tcp.Read(c.in[len(c.in):cap(c.in)])
	c.in = c.in[:len(c.in)+n]
	if n > 0 {
		return nil
	}
	return err //nolint:wrapcheck // says all
}

// readFirst reads what there is into a buffer of its own; it is not done if that is nothing.
func readFirst(fd uintptr, size int) (b []byte, err error, done bool) { //nolint:revive // done belongs last
	b = takeBuffer(size)
	n, errno := socket.Take(fd, b)
	if n > 0 {
		return b[:n], nil, true
	}
	freeBuffer(b)
	switch errno {
	case 0:
		return nil, io.EOF, true
	case syscall.EAGAIN:
		return nil, nil, false
	}
	return nil, errno, true
}

// begin makes ready for an exchange.
func (c *conn) begin() {
	s := c.server
	c.x = exchange.Exchange{Mesh: s.config.Mesh, Client: &c.client, Begun: time.Now(), Protocol: "HTTP/1.1"}
	c.begun, c.bodyErr, c.toUp, c.toClient = false, nil, sink{}, sink{}
	c.cause.Store(0)
	c.closing = c.request.close || s.draining.Load() || c.client.Binding.Closed.Load()
}

// exchange serves the request that was read. It is false if that was the connection's last.
func (c *conn) exchange() bool {
	c.begin()
	if !c.setPhase(-c.server.at(c.x.Begun)) {
		return false
	}
	c.first = false
	c.client.Share.TurnToBegin()
	x, r := &c.x, &c.request
	x.Method, x.Host = method(r.method), view(r.host)
	x.Values = c.values
	if r.minor == 0 {
		x.Protocol = "HTTP/1.0"
	}
	x.SetTarget(view(r.target))
	c.reqBody.begin(c.tcp, r.body, c.in, c.head)
	if reason := x.Decide(); reason != "" {
		c.refuse(reason)
	} else {
		c.forward()
	}
	return c.end()
}

// end counts the exchange and makes ready for the next request.
func (c *conn) end() bool {
	c.x.In += c.toUp.sent
	c.x.Out += c.toClient.sent
	took := c.x.End()
	if c.closing || c.over {
		c.linger = c.linger || !c.reqBody.ended.Load()
		c.reqBody.free()
		freeBuffer(c.in)
		c.in = nil
		return false
	}
	rest := c.reqBody.rest()
	if len(rest) == 0 {
		freeBuffer(c.in)
		c.in = nil
	} else {
		if cap(c.in) < len(rest) {
			freeBuffer(c.in)
			c.in = takeBuffer(len(rest))
		}
		c.in = c.in[:copy(c.in[:cap(c.in)], rest)]
	}
	c.reqBody.free()
	return c.setPhase(c.server.at(c.x.Begun) + int64(took+c.server.config.IdleTimeout))
}

// handOver gives a connection that speaks HTTP/2 to those who do.
func (c *conn) handOver() {
	if !c.setPhase(-1) {
		return
	}
	c.server.leave(c)
	begun := bytes.Clone(c.in)
	freeBuffer(c.in)
	c.in, c.over = nil, true
	a := c.share
	c.share = nil
	c.server.config.HTTP2(c.tcp, begun, c.client.Binding, a)
}

// lingerTimeout is how long what a client still sends is read and thrown away after the last answer: closing at once
// would reset the connection, and the answer might be lost with it (RFC 9112, 9.6).
const (
	lingerTimeout = 5 * time.Second
	lingerBytes   = 1 << 20
)

func (c *conn) lingerOn() {
	if c.tcp.CloseWrite() != nil || c.tcp.SetReadDeadline(time.Now().Add(lingerTimeout)) != nil {
		return
	}
	b := takeBuffer(largeBuffer)
	defer freeBuffer(b)
	for read := 0; read < lingerBytes; {
		n, err := c.tcp.Read(b)
		if err != nil {
			return
		}
		read += n
	}
}

// method returns a method as a string, without a copy for those that are usual.
func method(b []byte) string {
	switch string(b) {
	case "GET":
		return "GET"
	case "POST":
		return "POST"
	case "HEAD":
		return "HEAD"
	case "PUT":
		return "PUT"
	case "DELETE":
		return "DELETE"
	}
	return string(b)
}
