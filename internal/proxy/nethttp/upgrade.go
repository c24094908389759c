package nethttp

import (
	"bufio"
	"cmp"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
)

// switchProtocols passes a 101 on and joins the two connections.
func (f *forwarding) switchProtocols(resp *http.Response) {
	up, ok := resp.Body.(io.ReadWriteCloser)
	if !ok || f.upgrade == "" || !strings.EqualFold(resp.Header.Get("Upgrade"), f.upgrade) {
		f.refuse(refusal.UpgradeFailed)
		return
	}
	if f.limit != nil {
		f.limit.Stop() // it is for the request
	}
	protocol := resp.Header["Upgrade"]
	removeHopByHop(resp.Header)
	resp.Header["Connection"], resp.Header["Upgrade"] = []string{"Upgrade"}, protocol
	f.status = resp.StatusCode

	conn, buffered, err := http.NewResponseController(f.w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // the client is gone
	}
	t := &tunnel{
		client: f.client.conn, up: up, in: &f.body.count, out: &f.sent,
		idle: cmp.Or(f.port.IdleTimeout, f.server.config.UpgradeIdle),
	}
	done, ok := f.server.upgraded.Add(t.cut)
	if !ok {
		conn.Close()
		return
	}
	defer done()
	ended, ok := f.server.config.Gate.Watch(f.call, t.cut)
	if !ok {
		conn.Close()
		return
	}
	defer ended()
	resp.Body = nil
	if err := errors.Join(resp.Write(buffered), buffered.Flush(), conn.SetDeadline(time.Time{})); err != nil {
		conn.Close()
		return
	}
	t.run(buffered.Reader)
}

// tunnel carries bytes between a client and an endpoint that switched protocols.
type tunnel struct {
	client *net.TCPConn
	up     io.ReadWriteCloser
	idle   time.Duration
	in     *atomic.Int64
	out    *int64 // read after run

	moved atomic.Int64 // changes with every byte
}

// run returns when both directions have ended. sent is what the client sent ahead, and what it still sends.
func (t *tunnel) run(sent *bufio.Reader) {
	defer t.up.Close()
	defer t.client.Close()
	stop := make(chan struct{})
	var watch, in sync.WaitGroup
	watch.Go(func() { t.watch(stop) })
	in.Go(func() { t.carry(t.up, sent, func(n int) { t.in.Add(int64(n)) }) })
	t.carry(t.client, t.up, func(n int) { *t.out += int64(n) })
	in.Wait()
	close(stop)
	watch.Wait()
}

// carry moves bytes until src ends, which it passes on, or something breaks, which ends both directions.
func (t *tunnel) carry(dst io.Writer, src io.Reader, count func(int)) {
	buffer := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buffer)
	for {
		n, err := src.Read(buffer[:])
		if n > 0 {
			t.moved.Add(int64(n))
			count(n)
			if _, err := dst.Write(buffer[:n]); err != nil {
				t.cut()
				return
			}
		}
		if err == io.EOF {
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
	_ = t.client.SetLinger(0) // a reset, so that it is not taken for an orderly end
	t.client.Close()
	t.up.Close()
}
