package http1

import (
	"cmp"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

var errUpgrade = errors.New("the endpoint switched to a protocol that was not asked for")

// switchProtocols passes on a 101, whose head has n bytes, and joins the two connections.
func (c *conn) switchProtocols(up *upstream.Conn, n int) error {
	r := &c.response
	if !asked(c.request.upgrade, r.upgrade) || r.framing.cod || r.framing.length > 0 {
		return errUpgrade
	}
	t := &tunnel{client: c.tcp, up: up.Conn, idle: cmp.Or(c.x.Port.IdleTimeout, c.server.config.UpgradeIdle)}
	done, ok := c.server.upgraded.Add(t.cut)
	if !ok {
		return errInterrupted
	}
	defer done()
	ended, ok := c.x.Mesh.Gate.Watch(c.x.Call(c.x.Endpoint), t.cut)
	if !ok {
		return errInterrupted
	}
	defer ended()
	if c.up.Swap(nil) == nil {
		return errInterrupted
	}
	c.over = true // from here on both connections are the tunnel's
	c.server.leave(c)
	c.x.Answered(r.status, true)
	c.x.ReleaseShare() // it counts as a connection only
	c.begun = true
	c.toClient.begin(c.tcp, c.out, largeBuffer)
	c.toClient.buffer = r.appendHead(c.toClient.buffer, none, false)
	_ = c.toClient.add(c.answer[n:]) // a failure shows in what comes next, too
	ahead := c.reqBody.rest()
	_, upErr := up.Write(ahead)
	if errors.Join(c.toClient.flush(), upErr) != nil {
		t.cut()
		return nil
	}
	c.x.In = int64(len(ahead))
	freeBuffer(c.answer)
	c.answer = nil
	t.run()
	c.x.In += t.in
	c.x.Out = t.out
	return nil
}

// asked says that what the endpoint switched to is on the list of what the client asked for.
func asked(list, got []byte) bool {
	for rest := list; rest != nil; {
		var e []byte
		e, rest = element(rest)
		if len(e) > 0 && fold(e, got) {
			return true
		}
	}
	return false
}

// tunnel carries bytes between a client and an endpoint that switched protocols.
type tunnel struct {
	client  Conn
	up      net.Conn
	idle    time.Duration
	in, out int64 // read after run

	moved atomic.Int64 // changes with every byte
}

// run returns when both directions have ended.
func (t *tunnel) run() {
	defer t.up.Close()
	defer t.client.Close()
	stop := make(chan struct{})
	var watch, in sync.WaitGroup
	watch.Go(func() { t.watch(stop) })
	in.Go(func() { t.carry(t.up, t.client, &t.in) })
	t.carry(t.client, t.up, &t.out)
	in.Wait()
	close(stop)
	watch.Wait()
}

// carry moves bytes until src ends, which it passes on, or something breaks, which ends both directions.
func (t *tunnel) carry(dst, src net.Conn, count *int64) {
	buffer := takeBuffer(largeBuffer)
	defer freeBuffer(buffer)
	for {
		n, err := src.Read(buffer)
		if n > 0 {
			t.moved.Add(int64(n))
			*count += int64(n)
			if _, err := dst.Write(buffer[:n]); err != nil {
				t.cut()
				return
			}
		}
		if errors.Is(err, io.EOF) {
			if half, ok := dst.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
				t.cut()
			}
			return
		}
		if err != nil {
			t.cut()
			return
		}
	}
}

// watch cuts the tunnel when nothing has moved for as long as it may be idle.
func (t *tunnel) watch(stop <-chan struct{}) {
	tick := time.NewTicker(t.idle)
	defer tick.Stop()
	var last int64 = -1
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		now := t.moved.Load()
		if now == last {
			t.cut()
			return
		}
		last = now
	}
}

// cut ends the tunnel at once.
func (t *tunnel) cut() {
	spoil(t.client) // so that it is not taken for an orderly end
	t.client.Close()
	t.up.Close()
}
