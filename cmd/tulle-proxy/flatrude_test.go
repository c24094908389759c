//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// rude is a client that does not behave. It is given a connection, which is closed when it returns, orderly or by a reset.
type rude struct {
	name  string
	many  int           // at a time
	every time.Duration // between the end of one and the next of the same, about
	port  int
	do    func(context.Context, net.Conn)
}

// misbehave does everything that nobody should, until ctx ends.
func misbehave(ctx context.Context, m *flatMesh) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, r := range []rude{
		{"half a head", 16, 0, webPort, saying("GET / HTTP/1.1\r\nHost: we", outstay)},
		{"half a body", 16, 0, webPort, saying("POST /sink HTTP/1.1\r\nHost: web\r\nContent-Length: 1000000\r\n\r\nbeginning", holdOn)},
		{"half a chunk", 8, 0, h2cPort, saying("POST /sink HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\nbeginning", holdOn)},
		{"never reads", 8, 0, webPort, saying(bigRequest, holdOn)},
		{"never reads, from HTTP/2", 8, 0, h2cPort, saying(bigRequest, holdOn)},
		{"reads slowly", 8, 0, webPort, saying(bigRequest, sip)},
		{"reads slowly, in chunks", 8, 0, webPort, saying(strings.Replace(bigRequest, " HTTP", "?chunked HTTP", 1), sip)},
		{"writes slowly", 8, 0, webPort, saying("POST /sink HTTP/1.1\r\nHost: web\r\nContent-Length: 1000000000\r\n\r\n", drip)},
		{"reset in the middle", 1, 50 * time.Millisecond, webPort, saying(bigRequest, gulp)},
		{"broken by the endpoint", 1, 100 * time.Millisecond, splitPort, saying("GET /break HTTP/1.1\r\nHost: web\r\n\r\n", gulp)},
		{"waits for no answer", 2, 50 * time.Millisecond, webPort, saying("GET /hang HTTP/1.1\r\nHost: web\r\n\r\n", leave)},
		{"pipelined and not read", 8, 0, webPort, saying(strings.Repeat("GET /big/100000 HTTP/1.1\r\nHost: web\r\n\r\n", 200), holdOn)},
		{"a large head", 1, 50 * time.Millisecond, webPort, saying("GET / HTTP/1.1\r\nHost: web\r\nA: "+strings.Repeat("a", 60<<10)+"\r\n\r\n", gulp)},
		{"a head too large", 1, 50 * time.Millisecond, webPort, saying("GET / HTTP/1.1\r\nHost: web\r\nA: "+strings.Repeat("a", 80<<10)+"\r\n\r\n", gulp)},
		{"nobody there", 1, 50 * time.Millisecond, nobodyPort, saying("GET / HTTP/1.1\r\nHost: web\r\n\r\n", gulp)},
		{"garbage", 1, 50 * time.Millisecond, webPort, garbage("")},
		{"garbage for HTTP/2", 1, 50 * time.Millisecond, webPort, garbage(http2.ClientPreface)},
		{"streams that nobody reads", 2, 0, webPort, hoard},
		{"rapid resets", 1, 200 * time.Millisecond, webPort, flood},
		{"nothing at all", 16, 0, webPort, outstay},
		{"opens and closes", 2, 20 * time.Millisecond, webPort, leave},
		{"opens and closes TCP", 2, 20 * time.Millisecond, tcpPort, leave},
		{"TCP that nobody reads", 8, 0, tcpPort, choke},
		{"TCP that idles", 50, 0, tcpPort, saying("hello", holdOn)},
		{"half-closed TCP", 1, 50 * time.Millisecond, tcpPort, saying("hello", halfClose)},
	} {
		for i := range r.many {
			wg.Go(func() { r.again(ctx, m, i) })
		}
	}
	for i := range 4 {
		wg.Go(func() {
			for ; ctx.Err() == nil; pause(ctx, 2*time.Second) {
				if c, err := m.upgrade(ctx, flatTenants/2+i); err == nil {
					holdOn(ctx, c)
					end(c)
				}
			}
		})
	}
	wg.Go(func() {
		for ; ctx.Err() == nil; pause(ctx, 20*time.Millisecond) {
			if c, err := new(net.Dialer).DialContext(ctx, "udp", m.at(udpPort)); err == nil {
				_, _ = c.Write(nothing[:1200]) // and does not wait for the answer
				c.Close()
			}
		}
	})
}

// again does it until ctx ends, as a pod of a tenant, or as nobody that the proxy knows.
func (r rude) again(ctx context.Context, m *flatMesh, i int) {
	for ; ctx.Err() == nil; pause(ctx, r.every+10*time.Millisecond) {
		d := m.dialer(flatTenants/2 + i)
		if i++; i%5 == 4 {
			d = &net.Dialer{Timeout: 10 * time.Second}
		}
		c, err := d.DialContext(ctx, "tcp", m.at(r.port))
		if err != nil {
			continue
		}
		stop := context.AfterFunc(ctx, func() { c.Close() })
		r.do(ctx, c)
		stop()
		end(c)
	}
}

// end closes a connection, every other time by a reset.
func end(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok && time.Now().UnixNano()&1 == 0 {
		_ = t.SetLinger(0) // it may have ended
	}
	c.Close()
}

const bigRequest = "GET /big/1000000000 HTTP/1.1\r\nHost: web\r\n\r\n"

func saying(what string, then func(context.Context, net.Conn)) func(context.Context, net.Conn) {
	return func(ctx context.Context, c net.Conn) {
		_ = c.SetWriteDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.WriteString(c, what); err == nil {
			then(ctx, c)
		}
	}
}

func garbage(before string) func(context.Context, net.Conn) {
	return func(ctx context.Context, c net.Conn) { saying(before+rand.Text()+rand.Text(), gulp)(ctx, c) }
}

func leave(ctx context.Context, _ net.Conn) { pause(ctx, 5*time.Millisecond) }

func holdOn(ctx context.Context, _ net.Conn) { pause(ctx, 4*time.Second) }

// outstay waits until the proxy has enough.
func outstay(_ context.Context, c net.Conn) {
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	_, _ = io.Copy(io.Discard, c)
}

// gulp reads a little and leaves.
func gulp(_ context.Context, c net.Conn) {
	_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
	_, _ = io.CopyN(io.Discard, c, 200<<10)
}

func sip(ctx context.Context, c net.Conn) {
	b := make([]byte, 16<<10)
	for range 50 {
		if _, err := c.Read(b); err != nil {
			return
		}
		pause(ctx, 100*time.Millisecond)
	}
}

func drip(ctx context.Context, c net.Conn) {
	for range 50 {
		if _, err := c.Write(nothing[:1000]); err != nil {
			return
		}
		pause(ctx, 100*time.Millisecond)
	}
}

func choke(ctx context.Context, c net.Conn) {
	_ = c.SetWriteDeadline(time.Now().Add(2 * time.Second))
	for {
		if _, err := c.Write(nothing[:]); err != nil {
			holdOn(ctx, c)
			return
		}
	}
}

func halfClose(ctx context.Context, c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok && t.CloseWrite() == nil {
		gulp(ctx, c)
	}
}

// hoard asks for large answers on many streams, lets all come that may, and reads no body.
func hoard(ctx context.Context, c net.Conn) {
	f, head, err := speakHTTP2(c, "/big/1000000000")
	if err != nil {
		return
	}
	for id := uint32(1); id < 200; id += 2 {
		if f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: head, EndStream: true, EndHeaders: true}) != nil {
			return
		}
	}
	holdOn(ctx, c)
}

// flood opens streams and resets them at once.
func flood(_ context.Context, c net.Conn) {
	f, head, err := speakHTTP2(c, "/hang")
	if err != nil {
		return
	}
	for id := uint32(1); id < 400; id += 2 {
		err := errors.Join(f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: head, EndStream: true, EndHeaders: true}),
			f.WriteRSTStream(id, http2.ErrCodeCancel))
		if err != nil {
			return
		}
	}
}

// speakHTTP2 begins a connection, and gives the header block of a request.
func speakHTTP2(c net.Conn, path string) (*http2.Framer, []byte, error) {
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		return nil, nil, err
	}
	var head bytes.Buffer
	e := hpack.NewEncoder(&head)
	e.SetMaxDynamicTableSize(0) // every request's is the same
	for _, f := range []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "web"}, {Name: ":path", Value: path}} {
		_ = e.WriteField(f) // to memory
	}
	f := http2.NewFramer(c, c)
	return f, head.Bytes(), f.WriteSettings()
}

// upgrade opens a WebSocket as a tenant's pod.
func (m *flatMesh) upgrade(ctx context.Context, tenant int) (net.Conn, error) {
	c, err := m.dialer(tenant).DialContext(ctx, "tcp", m.at(webPort))
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(flatPatience))
	fmt.Fprint(c, "GET /upgrade HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil) // nothing comes behind it
	if err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
		err = fmt.Errorf("%s %s", resp.Status, resp.Header.Get("Tulle-Reason"))
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}
