package tcp

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Pipe joins two TCP connections. The kernel moves the bytes of streams (splice).
type Pipe struct {
	Client, Upstream *net.TCPConn
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
func (s *pipeState) copy(dst, src *net.TCPConn, count func(float64)) {
	m, err := newMover(dst, src)
	if err != nil {
		s.breakOff(dst, src, err)
		return
	}
	for {
		// An error means that src is closed, which move reports better.
		_ = src.SetReadDeadline(time.Now().Add(s.tick))
		n, err := m.move()
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

// breakOff ends the direction from src to dst after err. If src is what broke, dst is reset at once: there is nobody
// left to hear it. If dst broke, what it sent before may still be on its way to src: the other direction finds the end
// by itself.
func (s *pipeState) breakOff(dst, src *net.TCPConn, err error) {
	s.broken.Store(true)
	if errors.Is(err, syscall.EPIPE) || alive(src) {
		// Nobody reads on from src. Data that keeps coming in would only fill its buffer.
		return
	}
	Reset(dst)
}

// Reset closes a connection so that the other end sees a reset rather than an orderly end.
func Reset(c *net.TCPConn) {
	// An error means that the connection is closed.
	_ = c.SetLinger(0)
	c.Close()
}
