//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// loud is the client of the tenant that takes all that it can get, and worse.
type loud struct {
	Address, From string
	Greedy        int           // connections that always have requests waiting
	Depth         int           // so many on each
	Pause         time.Duration // between two looks at each
	SlowHeads     int           // connections that send a head octet by octet
	SlowBodies    int           // connections that ask for a long body and hardly read it
	Resetters     int           // workers that reset a connection after one request, again and again
	Resets        int           // a second, of all of them

	requests []byte        // as many as wait on a connection
	all      chan struct{} // closed when it has had all connections, which the greedy wait for
	hasAll   sync.Once
	// All of it since the beginning, but for what is.
	open, waiting                                atomic.Int64 // connections; requests sent that are not answered
	sent, served, refused, other                 atomic.Int64 // of the greedy: requests and answers
	resets, once, longBytes, broken, unconnected atomic.Int64
}

// loudResult is what there was at a time.
type loudResult struct {
	Open, Waiting                int64 // connections that are, and requests on them that are not answered
	Sent, Served, Refused, Other int64 // requests of the greedy, and their answers: 200, 503 and others
	Resets, Once                 int64 // connections that were reset, and answers that came before
	LongBytes                    int64 // of long bodies
	Broken, Unconnected          int64 // connections that the other side ended, or did not take
	At                           time.Time
}

// most is how many connections it has to have at first.
func (l *loud) most() int64 { return int64(l.Greedy+l.SlowHeads+l.SlowBodies+l.Resetters) * 98 / 100 }

// held is how many it has to have at any time. Resetters have none in between, and may all have none.
func (l *loud) held() int64 { return int64(l.Greedy+l.SlowHeads+l.SlowBodies) * 98 / 100 }

// run makes the load until in ends, and tells how things are for each line of it.
func (l *loud) run(ctx context.Context, in io.Reader, out io.Writer) error {
	debug.SetGCPercent(400)
	l.all = make(chan struct{})
	l.requests = []byte(strings.Repeat(greedyRequest, l.Depth))
	const together = 64
	for n := l.Greedy; n > 0; n -= together {
		go l.greed(ctx, min(n, together))
	}
	for range l.SlowHeads {
		go l.again(ctx, l.slowHead)
	}
	for range l.SlowBodies {
		go l.again(ctx, l.slowBody)
	}
	for i := range l.Resetters {
		go l.reset(ctx, i)
	}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		if err := json.NewEncoder(out).Encode(l.now()); err != nil {
			return err
		}
	}
	return nil
}

func (l *loud) now() loudResult {
	return loudResult{
		Open: l.open.Load(), Waiting: l.waiting.Load(), Sent: l.sent.Load(), Served: l.served.Load(), Refused: l.refused.Load(),
		Other: l.other.Load(), Resets: l.resets.Load(), Once: l.once.Load(), LongBytes: l.longBytes.Load(),
		Broken: l.broken.Load(), Unconnected: l.unconnected.Load(), At: time.Now(),
	}
}

// connect opens a connection. Its end is always a reset, which leaves no port behind that can't be used for a minute.
func (l *loud) connect(ctx context.Context) (*net.TCPConn, error) {
	c, err := tenantDialer(l.From).DialContext(ctx, "tcp", l.Address)
	if err != nil {
		l.unconnected.Add(1)
		return nil, err
	}
	conn := c.(*net.TCPConn) //nolint:forcetypeassert // it was asked for
	_ = conn.SetLinger(0)    // it may have ended
	if l.open.Add(1) >= l.most() {
		l.hasAll.Do(func() { close(l.all) })
	}
	return conn, nil
}

func (l *loud) disconnect(c net.Conn) {
	c.Close()
	l.open.Add(-1)
}

// again keeps one connection, and another one when that has ended.
func (l *loud) again(ctx context.Context, use func(context.Context, *net.TCPConn) error) {
	for ; ctx.Err() == nil; wait(ctx, 100*time.Millisecond) {
		c, err := l.connect(ctx)
		if err != nil {
			continue
		}
		_ = use(ctx, c) // it ended, whyever
		l.disconnect(c)
		l.broken.Add(1)
	}
}

// answered is the counter of a status.
func (l *loud) answered(status int) *atomic.Int64 {
	switch status {
	case http.StatusOK:
		return &l.served
	case http.StatusServiceUnavailable:
		return &l.refused
	}
	return &l.other
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
