package http2

import (
	"sync"
	"time"
)

const (
	// streamWindow is what a client may send on a stream, and connWindow on a connection, before somebody reads it.
	streamWindow = 256 << 10
	connWindow   = 4 << 20
	// copied is the buffer by which a body is copied, in either direction.
	copied = 32 << 10
	// patience is how long a stream may hold bytes that don't count: long enough for those that flow never to count, and too
	// short for much to pile up.
	patience = 100 * time.Millisecond
)

// room is where bytes count that are buffered.
type room interface {
	Buffer(n int64) bool // false: there is no room
	Release(n int64)
}

// backlog counts what one direction of a stream may have buffered. Transports and servers don't tell what they hold, but
// whoever reads a body finds out when there is nothing: a read waits, or brings less than was asked for. From when that
// has not happened for a while, all counts that flow control lets in, until it happens.
//
// Its methods may be called by any goroutine. The zero value counts nothing.
type backlog struct {
	room   room
	window int64  // what flow control lets in
	length int64  // of the body; negative if that isn't known
	own    int64  // what is held besides
	shed   func() // called if there is no room, by a goroutine of its own, and before end

	mu      sync.Mutex
	timer   *time.Timer // nil before begin
	empty   time.Time   // when nothing was left last
	armed   bool        // the timer runs
	reading bool
	over    bool
	taken   int64
	counted int64
}

// begin is called when there may be something to read, but nobody reads it yet.
func (b *backlog) begin() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.empty, b.armed = time.Now(), true
	b.timer = time.AfterFunc(patience, b.look)
}

// read is called before a read: while it waits there is nothing to be had.
func (b *backlog) read() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading = true
}

// got is called after it, with what it brought. more says that it may have left something.
func (b *backlog) got(n int, more bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading = false
	b.taken += int64(n)
	if b.timer == nil || b.over {
		return
	}
	if !more {
		b.empty = time.Now()
		b.release()
	}
	if !b.armed && b.counted == 0 {
		if more {
			b.empty = time.Now() // or a moment ago
		}
		b.armed = true
		b.timer.Reset(patience)
	}
}

// look counts what may be there if it was not empty for a while.
func (b *backlog) look() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.armed = false; b.over || b.reading {
		return // got looks again
	}
	if wait := patience - time.Since(b.empty); wait > 0 {
		b.armed = true
		b.timer.Reset(wait)
		return
	}
	n := b.most()
	switch {
	case n == 0:
	case b.room.Buffer(n):
		b.counted = n
	default:
		b.over = true
		b.shed()
	}
}

// most is what may be held now; mu is held.
func (b *backlog) most() int64 {
	if b.length < 0 {
		return b.window + b.own
	}
	return min(b.window, max(b.length-b.taken, 0)) + b.own
}

// end gives everything back.
func (b *backlog) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.timer != nil {
		b.timer.Stop()
	}
	b.over = true
	b.release()
}

// release gives back what counts; mu is held.
func (b *backlog) release() {
	if b.counted > 0 {
		b.room.Release(b.counted)
		b.counted = 0
	}
}

// uploads counts what the streams of one connection may hold of requests: their windows, as far as the connection's goes,
// and a buffer for each.
type uploads struct {
	account room

	mu      sync.Mutex
	windows int64 // guarded by mu, as counted
	counted int64 // of them
}

// Buffer implements room.
func (u *uploads) Buffer(n int64) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	counted := min(u.windows+n, connWindow)
	if !u.account.Buffer(counted - u.counted + copied) {
		return false
	}
	u.windows, u.counted = u.windows+n, counted
	return true
}

// Release implements room.
func (u *uploads) Release(n int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.windows -= n
	counted := min(u.windows, connWindow)
	u.account.Release(u.counted - counted + copied)
	u.counted = counted
}
