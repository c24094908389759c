//go:build linux

package main

import (
	"context"
	"io"
	"net"
	"time"
)

// slowEvery is the pace of the slow ones: an octet of a head, or a KiB of a body.
const slowEvery = 250 * time.Millisecond

// slowHead sends a head that never ends.
func (l *loud) slowHead(ctx context.Context, c *net.TCPConn) error {
	return l.slowly(ctx, c, "GET / HTTP/1.1\r\nHost: loud\r\nSlow: ", func() error {
		_, err := c.Write([]byte("x"))
		return err
	})
}

// slowBody asks for a body that fits in no buffer on its way, and reads it as slowly as may be.
func (l *loud) slowBody(ctx context.Context, c *net.TCPConn) error {
	b := make([]byte, 1<<10)
	if err := c.SetReadBuffer(8 << 10); err != nil {
		return err
	}
	return l.slowly(ctx, c, "GET "+tenantLong+" HTTP/1.1\r\nHost: loud\r\n\r\n", func() error {
		n, err := c.Read(b)
		l.longBytes.Add(int64(n))
		return err
	})
}

func (l *loud) slowly(ctx context.Context, c *net.TCPConn, begin string, step func() error) error {
	if _, err := io.WriteString(c, begin); err != nil {
		return err
	}
	tick := time.NewTicker(slowEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if err := step(); err != nil {
			return err
		}
	}
}

// reset makes connections with one request each, and resets them: in turn at once, while the request is on its way, and
// after a while, in which it has a connection as the others have.
func (l *loud) reset(ctx context.Context, i int) {
	every := 2 * time.Second * time.Duration(l.Resetters) / time.Duration(l.Resets) // two resets
	wait(ctx, every*time.Duration(i)/time.Duration(l.Resetters))                    // not all at a time
	tick := time.NewTicker(every)
	defer tick.Stop()
	for ctx.Err() == nil {
		l.askOnce(ctx, 0)
		l.askOnce(ctx, every)
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

func (l *loud) askOnce(ctx context.Context, hold time.Duration) {
	begun := time.Now()
	c, err := l.connect(ctx)
	if err != nil {
		return
	}
	defer l.disconnect(c)
	if _, err := io.WriteString(c, "GET /once HTTP/1.1\r\nHost: loud\r\n\r\n"); err != nil {
		return
	}
	l.resets.Add(1)
	if hold == 0 {
		return
	}
	if c.SetReadDeadline(begun.Add(hold)) == nil {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			l.once.Add(1)
		}
	}
	wait(ctx, time.Until(begun.Add(hold)))
}
