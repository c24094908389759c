package tcp

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Conn is a connection whose directions end one by one: a *net.TCPConn, or one that is tunnelled to another node. The
// latter says by a method Reset how it is reset, and by Alive whether it still is.
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

// tick is how often at least bytes are reported and idleness is looked at.
const tick = 15 * time.Second

// Run carries bytes both ways until both directions have ended, then closes both connections. The end of one direction
// is passed on by itself; a reset ends both at once.
func (p Pipe) Run() {
	s := &pipeState{tick: min(tick, max(p.Idle/4, time.Millisecond)), idle: p.Idle}
	s.last.Store(int64(time.Since(epoch)))
	var wg sync.WaitGroup
	wg.Go(func() { s.copy(p.Upstream, p.Client, p.In) })
	s.copy(p.Client, p.Upstream, p.Out)
	wg.Wait()
	if s.broken.Load() {
		Reset(p.Client)
		Reset(p.Upstream)
		return
	}
	p.Client.Close()
	p.Upstream.Close()
}

// epoch makes times small numbers; only differences count.
var epoch = time.Now()

type pipeState struct {
	tick, idle time.Duration
	last       atomic.Int64 // when a byte moved last, since epoch
	broken     atomic.Bool  // at least one side was reset, or nothing moved for too long
}

// copy moves bytes from src to dst until src ends or something breaks. The read deadline is a clock, not a limit: it
// makes move come back so that its bytes can be counted.
func (s *pipeState) copy(dst, src Conn, count func(float64)) {
	move, err := moving(dst, src)
	if err != nil {
		s.breakOff(dst, src, err)
		return
	}
	for {
		// An error means that src is closed, which move reports better.
		_ = src.SetReadDeadline(time.Now().Add(s.tick))
		n, err := move()
		now := time.Since(epoch)
		if n > 0 {
			count(float64(n))
			s.last.Store(int64(now))
		}
		switch {
		case err == nil:
			// The end of this direction. A failure means that dst is closed already.
			_ = dst.CloseWrite()
			return
		case !errors.Is(err, os.ErrDeadlineExceeded):
			s.breakOff(dst, src, err)
			return
		case s.broken.Load():
			return
		case now-time.Duration(s.last.Load()) >= s.idle:
			s.broken.Store(true)
			return
		}
	}
}

// moving returns what moves bytes from src to dst until src ends, breaks or misses its deadline.
func moving(dst, src Conn) (func() (int64, error), error) {
	to, ok1 := dst.(*net.TCPConn)
	from, ok2 := src.(*net.TCPConn)
	if ok1 && ok2 {
		m, err := newMover(to, from)
		if err != nil {
			return nil, err
		}
		return m.move, nil
	}
	return func() (int64, error) { return io.Copy(dst, src) }, nil
}

// breakOff ends the direction from src to dst after err. If src is what broke, dst is reset at once: there is nobody
// left to hear it. If dst broke, what it sent before may still be on its way to src: the other direction finds the end
// by itself.
func (s *pipeState) breakOff(dst, src Conn, err error) {
	s.broken.Store(true)
	if errors.Is(err, syscall.EPIPE) || isAlive(src) {
		// Nobody reads on from src. Data that keeps coming in would only fill its buffer.
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
