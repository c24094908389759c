package tcp_test

import (
	"net"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/socket/sockettest"
	"github.com/tulle-mesh/tulle/internal/proxy/tcp"
)

// Of two that send without reading neither direction gets on. That ends when one of them is gone, or by the limit on
// idleness: it would otherwise last as long as the other one does.
func TestNobodyReads(t *testing.T) {
	for name, tc := range map[string]struct {
		idle, within time.Duration
		end          func(client *net.TCPConn) error
	}{
		"the client is gone": {12 * time.Second, 10 * time.Second, func(c *net.TCPConn) error { return c.Close() }}, // a reset, as it has not read
		"both stay":          {time.Second, 20 * time.Second, func(*net.TCPConn) error { return nil }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, near := sockettest.Pair(t)
			server, up := sockettest.Pair(t)
			for _, c := range []*net.TCPConn{near, up} {
				if err := c.SetDeadline(time.Time{}); err != nil {
					t.Fatal(err)
				}
			}
			ended := make(chan struct{})
			count := func(float64) {}
			tcp.Pipe{Client: near, Upstream: up, Idle: tc.idle, In: count, Out: count}.Start(func(*tcp.Panic) { close(ended) })
			stuck := make(chan struct{})
			for _, c := range []*net.TCPConn{client, server} {
				go func() {
					defer func() { stuck <- struct{}{} }()
					for b := make([]byte, 1<<20); ; {
						_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond)) // what fails is the write
						if _, err := c.Write(b); err != nil {
							return
						}
					}
				}()
			}
			<-stuck
			<-stuck
			if err := tc.end(client); err != nil {
				t.Fatal(err)
			}
			select {
			case <-ended:
			case <-time.After(tc.within):
				t.Error("the pipe goes on")
			}
		})
	}
}
