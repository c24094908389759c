package tcp

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"
)

// Conn is a connection whose directions end one by one: a *net.TCPConn, or one that is tunnelled to another node. The
// latter says by a method Reset how it is reset, and by Alive whether it still is.
//
// If it has a method Await, it waits by that until there is something to read, without a buffer.
type Conn interface {
	net.Conn
	CloseWrite() error
}

// Pipe joins two connections. Between plain sockets the kernel moves the bytes of streams (splice).
type Pipe struct {
	Client, Upstream Conn
	// Idle ends the connections when no byte has moved in either direction for that long.
	Idle time.Duration
	// In and Out are told how many bytes came from the client and went to it, now and then.
	In, Out func(bytes float64)
}

// tick is how often at least bytes are reported, and for how long what a side sent before it broke may take to get out.
const tick = 15 * time.Second

// Run carries bytes both ways until both directions have ended, then closes both connections. The end of one direction
// is passed on by itself; a reset ends both at once.
func (p Pipe) Run() {
	over := make(chan *Panic, 1)
	r := p.running(func(p *Panic) { over <- p })
	go r.direction(p.Upstream, p.Client, p.In)
	r.direction(p.Client, p.Upstream, p.Out)
	if p := <-over; p != nil {
		panic(fmt.Sprintf("%v\n%s", p.Value, p.Stack))
	}
}

// Start is Run on goroutines of their own, which have done nothing before that would have made their stacks grow. ended
// is called by the last of them.
func (p Pipe) Start(ended func(*Panic)) {
	r := p.running(ended)
	go r.direction(p.Upstream, p.Client, p.In)
	go r.direction(p.Client, p.Upstream, p.Out)
}

// Panic is what a goroutine has panicked with.
type Panic struct {
	Value any
	Stack []byte
}

// epoch makes times small numbers; only differences count.
var epoch = time.Now()

// running is a Pipe that is at work.
type running struct {
	client, upstream Conn
	tick, idle       time.Duration
	ended            func(*Panic)

	last     atomic.Int64 // when a byte moved last, since epoch
	clock    atomic.Pointer[time.Timer]
	broken   atomic.Bool  // at least one side was reset, or nothing moved for too long
	over     atomic.Int32 // directions that have ended
	panicked atomic.Pointer[Panic]
}

func (p Pipe) running(ended func(*Panic)) *running {
	r := &running{client: p.Client, upstream: p.Upstream, tick: min(tick, max(p.Idle/4, time.Millisecond)), idle: p.Idle, ended: ended}
	r.last.Store(int64(time.Since(epoch)))
	r.clock.Store(time.AfterFunc(p.Idle, r.look))
	return r
}

// look ends both directions if nothing has moved for too long. They can't see to it by themselves: both may wait for
// somebody to read.
func (r *running) look() {
	left := r.idle - (time.Since(epoch) - time.Duration(r.last.Load()))
	switch {
	case r.over.Load() == 2:
	case left > 0:
		r.clock.Store(time.AfterFunc(left, r.look))
	default:
		r.broken.Store(true)
		r.reset()
	}
}

func (r *running) direction(dst, src Conn, count func(float64)) {
	defer r.leave()
	r.copy(dst, src, count)
}

// leave is the end of a direction. The one that ends last closes the connections.
func (r *running) leave() {
	if p := recover(); p != nil {
		r.panicked.Store(&Panic{p, debug.Stack()})
		r.broken.Store(true)
		r.reset() // so that the other direction ends
	}
	if r.over.Add(1) < 2 {
		return
	}
	r.clock.Load().Stop()
	switch {
	case r.broken.Load():
		r.reset()
	default:
		r.client.Close()
		r.upstream.Close()
	}
	r.ended(r.panicked.Load())
}

func (r *running) reset() {
	Reset(r.client)
	Reset(r.upstream)
}

// copy moves bytes from src to dst until src ends or something breaks. The read deadline is a clock, not a limit: it
// makes move come back so that its bytes can be counted.
func (r *running) copy(dst, src Conn, count func(float64)) {
	m, err := newMover(dst, src)
	if err != nil {
		r.breakOff(dst, src, err)
		return
	}
	for {
		// An error means that src is closed, which move reports better.
		_ = src.SetReadDeadline(time.Now().Add(r.tick))
		n, err := m.move()
		if n > 0 {
			count(float64(n))
			r.last.Store(int64(time.Since(epoch)))
		}
		switch {
		case err == nil:
			// The end of this direction. A failure means that dst is closed already.
			_ = dst.CloseWrite()
			return
		case !errors.Is(err, os.ErrDeadlineExceeded):
			r.breakOff(dst, src, err)
			return
		case r.broken.Load():
			return
		}
	}
}

// breakOff ends the direction from src to dst after err. If src is what broke, dst is reset at once: there is nobody
// left to hear it. If dst broke, what it sent before may still be on its way to src: the other direction finds the end
// by itself, unless src doesn't read.
func (r *running) breakOff(dst, src Conn, err error) {
	r.broken.Store(true)
	if errors.Is(err, syscall.EPIPE) || isAlive(src) {
		// Nobody reads on from src. Data that keeps coming in would only fill its buffer.
		_ = src.SetWriteDeadline(time.Now().Add(r.tick)) // fails if it is closed
		return
	}
	Reset(dst)
}

func isAlive(c Conn) bool {
	switch c := c.(type) {
	case *net.TCPConn:
		return alive(c)
	case interface{ Alive() bool }:
		return c.Alive()
	}
	return false
}

// Reset closes a connection so that the other end sees a reset rather than an orderly end.
func Reset(c Conn) {
	switch c := c.(type) {
	case *net.TCPConn:
		// An error means that the connection is closed.
		_ = c.SetLinger(0)
	case interface{ Reset() }:
		c.Reset()
		return
	}
	c.Close()
}
