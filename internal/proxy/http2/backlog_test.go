package http2

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// ledger is room for so many bytes.
type ledger struct {
	mu         sync.Mutex
	most, used int64
}

func (l *ledger) Buffer(n int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.used+n > l.most {
		return false
	}
	l.used += n
	return true
}

func (l *ledger) Release(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.used -= n
}

func (l *ledger) want(t *testing.T, when string, n int64) {
	t.Helper()
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.used != n {
		t.Errorf("%s: %d bytes count, want %d", when, l.used, n)
	}
}

func TestBacklogCountsWhoIsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{most: 1000}
		b := &backlog{room: l, window: 100, own: 10, length: -1, shed: func() { t.Error("there is room") }}
		b.begin()
		<-time.After(patience - 1)
		l.want(t, "before its time", 0)
		<-time.After(1)
		l.want(t, "nobody reads", 110)
		b.read()
		l.want(t, "until it is seen empty", 110)
		b.got(32, true)
		l.want(t, "after a read that left something", 110)
		b.read()
		b.got(1, false)
		l.want(t, "after one that left nothing", 0)
		<-time.After(patience)
		l.want(t, "what it brought is not passed on", 110)
		b.read()
		<-time.After(time.Hour)
		b.got(0, false)
		l.want(t, "after a read that waited", 0)
		for range 100 { // a flow that never waits long, and is empty now and then
			<-time.After(patience / 2)
			b.read()
			b.got(32, true)
			<-time.After(patience / 4)
			b.read()
			b.got(1, false)
		}
		l.want(t, "as it flows", 0)
		b.read()
		<-time.After(time.Hour)
		l.want(t, "while it waits", 0)
		for range 3 { // a flow that is never empty
			b.got(32, true)
			<-time.After(patience / 2)
			b.read()
		}
		b.got(32, true)
		l.want(t, "of a reader who is always behind", 110)
		b.end()
		l.want(t, "at its end", 0)
		b.got(32, true)
		<-time.After(time.Hour)
		l.want(t, "after its end", 0)
	})
}

// No more counts than can still come.
func TestBacklogKnowsTheLength(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{most: 1000}
		b := &backlog{room: l, window: 100, own: 10, length: 150}
		b.begin()
		<-time.After(patience)
		l.want(t, "nothing was read", 110)
		b.read()
		b.got(120, false)
		<-time.After(patience)
		l.want(t, "30 are left", 40)
		b.read()
		b.got(30, false)
		<-time.After(patience)
		l.want(t, "all is passed on", 10)
		b.end()
	})
}

func TestBacklogIsShedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, shed := &ledger{most: 100}, 0
		b := &backlog{room: l, window: 100, own: 10, length: -1, shed: func() { shed++ }}
		b.begin()
		<-time.After(time.Hour)
		b.read()
		b.got(1, false)
		<-time.After(time.Hour)
		b.end()
		l.want(t, "without room", 0)
		if shed != 1 {
			t.Errorf("it was shed %d times", shed)
		}
	})
}

// Of a connection's streams no more counts than the connection's window, whichever of them end first.
func TestUploadsCountTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{most: connWindow + 20*copied}
		u := &uploads{account: l}
		for i := range 21 {
			if got := u.Buffer(streamWindow); got != (i < 20) {
				t.Errorf("stream %d has room: %v", i, got)
			}
		}
		l.want(t, "20 streams", connWindow+20*copied)
		for range 4 {
			u.Release(streamWindow)
		}
		l.want(t, "16 streams", connWindow+16*copied)
		u.Release(streamWindow)
		l.want(t, "15 streams", 15*(streamWindow+copied))
		if !u.Buffer(1000) {
			t.Error("there is room")
		}
		l.want(t, "and one that holds little", 15*(streamWindow+copied)+1000+copied)
		u.Release(1000)
		for range 15 {
			u.Release(streamWindow)
		}
		l.want(t, "no stream", 0)
	})
}

// BenchmarkBacklog is what counting costs an answer that comes in two pieces.
func BenchmarkBacklog(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		var l backlog
		l.room, l.window, l.length = (*ledger)(nil), 100, -1
		l.begin()
		for range 2 {
			l.read()
			l.got(100, false)
		}
		l.end()
	}
}
