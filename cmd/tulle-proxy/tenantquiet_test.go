//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// quietPatience is how long after the last request was due answers are still waited for.
const quietPatience = 5 * time.Second

// quiet is the client of the tenant that must not notice anything. Its requests are due at fixed times, whatever became of
// those before, and latency counts from when a request was due.
type quiet struct {
	Address, From string
	Body          string // that is wanted
	Rate          int    // requests a second, over kept connections in turn
	Connections   int
	Every         int // one request in so many is made besides on a new connection
	For           time.Duration

	mu     sync.Mutex
	result quietResult     // guarded by mu
	took   []time.Duration // guarded by mu
}

type quietResult struct {
	Requests, Errors int
	First            []string // errors
	P50, P99, Max    time.Duration
}

func (q *quiet) run(ctx context.Context, _ io.Reader, out io.Writer) error {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it lives for some seconds
	timer, err := newPulse(time.Second / time.Duration(q.Rate))
	if err != nil {
		return err
	}
	defer timer.Close()
	ctx, cancel := context.WithDeadline(ctx, time.Now().Add(q.For+2*quietPatience))
	defer cancel()
	kept := make([]*quietConn, q.Connections)
	var warm, all sync.WaitGroup
	for i := range kept {
		kept[i] = &quietConn{quiet: q, due: make(chan time.Time, q.Rate*int(q.For/time.Second+1))}
		warm.Go(func() { kept[i].ask(ctx, nil) }) // its error is one; its latency is not that of a kept connection
	}
	warm.Wait()
	fmt.Fprintln(out, true) // from now on it counts
	ctx, cancel = context.WithDeadline(ctx, time.Now().Add(q.For+quietPatience))
	defer cancel()
	for _, c := range kept {
		all.Go(func() { c.serve(ctx) })
	}
	n := int(q.For.Seconds() * float64(q.Rate))
	err = timer.each(n, func(i int, due time.Time) {
		kept[i%len(kept)].due <- due // has room for all
		if i%q.Every == 0 {
			all.Go(func() {
				c := quietConn{quiet: q}
				defer c.close()
				c.ask(ctx, &due)
			})
		}
	})
	for _, c := range kept {
		close(c.due)
	}
	all.Wait()
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(q.summary())
}

// quietConn is a connection and the requests that are due on it.
type quietConn struct {
	quiet *quiet
	due   chan time.Time
	conn  net.Conn // nil if there is none
	r     *bufio.Reader
}

func (c *quietConn) serve(ctx context.Context) {
	defer c.close()
	for due := range c.due {
		c.ask(ctx, &due)
	}
}

// ask makes a request, on a new connection if there is none. Without due it does not count, but for an error.
func (c *quietConn) ask(ctx context.Context, due *time.Time) {
	err := c.exchange(ctx)
	if err != nil {
		c.close()
	}
	q := c.quiet
	q.mu.Lock()
	defer q.mu.Unlock()
	if err != nil {
		if q.result.Errors++; len(q.result.First) < 3 {
			q.result.First = append(q.result.First, err.Error())
		}
	}
	if due != nil {
		q.took = append(q.took, time.Since(*due))
	}
}

func (c *quietConn) exchange(ctx context.Context) error {
	if c.conn == nil {
		conn, err := tenantDialer(c.quiet.From).DialContext(ctx, "tcp", c.quiet.Address)
		if err != nil {
			return err
		}
		c.conn, c.r = conn, bufio.NewReader(conn)
	}
	deadline, _ := ctx.Deadline()
	if err := c.conn.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := io.WriteString(c.conn, "GET /quiet HTTP/1.1\r\nHost: web.shop.mesh\r\nUser-Agent: quiet\r\nAccept: */*\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || string(body) != c.quiet.Body) {
		err = fmt.Errorf("%s %s, %d bytes", resp.Status, resp.Header.Get("Tulle-Reason"), len(body))
	}
	return err
}

func (c *quietConn) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

func (q *quiet) summary() quietResult {
	q.mu.Lock()
	defer q.mu.Unlock()
	slices.Sort(q.took)
	r, n := q.result, len(q.took)
	r.Requests, r.P50, r.P99, r.Max = n, q.took[n/2], q.took[n*99/100], q.took[n-1]
	return r
}

// tenantDialer calls as the pod that has an address.
func tenantDialer(from string) *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IP(netip.MustParseAddr(from).AsSlice())}}
}
