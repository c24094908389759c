//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// flatPatience is how long an answer may take on a machine that does other things besides.
const flatPatience = 30 * time.Second

// flatLoad are clients that behave: what they do has to work out, whatever others do.
type flatLoad struct {
	mesh       *flatMesh
	plain, h2  *http.Client
	once       *http.Client // HTTP/1, a connection for each request
	resolver   net.Resolver
	mu         sync.Mutex
	done       map[string]int // by what was done
	failures   []string
	newest     atomic.Int64 // answers of services that had just come
	downloaded atomic.Int64
}

func newFlatLoad(m *flatMesh, dns string) *flatLoad {
	l := &flatLoad{mesh: m, done: map[string]int{}}
	client := func(configure func(*http.Transport)) *http.Client {
		tr := &http.Transport{MaxIdleConnsPerHost: 8, DialContext: m.dialer(0).DialContext, Protocols: new(http.Protocols)}
		configure(tr)
		return &http.Client{Transport: tr}
	}
	l.plain = client(func(tr *http.Transport) { tr.Protocols.SetHTTP1(true) })
	l.once = client(func(tr *http.Transport) { tr.DisableKeepAlives = true })
	l.h2 = client(func(tr *http.Transport) { tr.Protocols.SetUnencryptedHTTP2(true) })
	l.resolver = net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, dns)
	}}
	return l
}

// dialer calls as a tenant's pod.
func (m *flatMesh) dialer(tenant int) *net.Dialer {
	return &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(m.caller(tenant), 0)), Timeout: flatPatience}
}

// behave does everything at its own rate, whether or not what was begun before has ended, until ctx ends.
func (l *flatLoad) behave(ctx context.Context) {
	m := l.mesh
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, what := range []struct {
		name string
		rate int // a second
		do   func(context.Context, int) error
	}{
		{"HTTP/1", 50, func(ctx context.Context, _ int) error { return l.get(ctx, l.plain, m.at(webPort), "/") }},
		{"HTTP/1 to HTTP/2", 20, func(ctx context.Context, _ int) error { return l.get(ctx, l.plain, m.at(h2cPort), "/") }},
		{"HTTP/2", 20, func(ctx context.Context, _ int) error { return l.get(ctx, l.h2, m.at(webPort), "/") }},
		{"HTTP/2 to HTTP/2", 20, func(ctx context.Context, _ int) error { return l.get(ctx, l.h2, m.at(h2cPort), "/") }},
		{"split", 20, func(ctx context.Context, _ int) error { return l.get(ctx, l.plain, m.at(splitPort), "/") }},
		{"many services", 20, func(ctx context.Context, n int) error { return l.get(ctx, l.plain, m.many(n%flatCalled), "/") }},
		{"TCP", 10, func(ctx context.Context, n int) error { return l.echo(ctx, "tcp", m.at(tcpPort)) }},
		{"UDP", 20, func(ctx context.Context, n int) error { return l.echo(ctx, "udp", m.at(udpPort)) }},
		{"DNS", 10, func(ctx context.Context, n int) error {
			_, err := l.resolver.LookupHost(ctx, fmt.Sprintf("many-%d.shop.mesh.", n%flatServices))
			return err
		}},
		{"a service that is new", 10, func(ctx context.Context, _ int) error {
			if l.get(ctx, l.once, m.newest(), "/") == nil {
				l.newest.Add(1)
			}
			return nil // it may not be there yet, or not any more
		}},
	} {
		wg.Go(func() { l.paced(ctx, what.name, what.rate, what.do) })
	}
	for i := range 50 {
		wg.Go(func() { l.try(ctx, "WebSocket that idles", func(ctx context.Context) error { return l.idle(ctx, i) }) })
	}
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			l.try(ctx, "huge body", func(ctx context.Context) error { return l.huge(ctx, i) })
			pause(ctx, 2*time.Second)
		}
	})
}

// paced begins something rate times a second.
func (l *flatLoad) paced(ctx context.Context, name string, rate int, do func(context.Context, int) error) {
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		wg.Go(func() { l.try(ctx, name, func(ctx context.Context) error { return do(ctx, n) }) })
	}
}

// try counts what was done, or how it failed. What the end of the load breaks off is neither.
func (l *flatLoad) try(ctx context.Context, name string, do func(context.Context) error) {
	err := do(ctx)
	if ctx.Err() != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failures = append(l.failures, fmt.Sprintf("%s: %v", name, err))
		return
	}
	l.done[name]++
}

func (l *flatLoad) get(ctx context.Context, c *http.Client, address, path string) error {
	_, err := l.send(ctx, c, http.MethodGet, "http://"+address+path, nil)
	return err
}

// send returns how long the answer is.
func (l *flatLoad) send(ctx context.Context, c *http.Client, method, url string, body io.Reader) (int64, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return 0, err
	}
	resp, err := c.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s", resp.Status, resp.Header.Get("Tulle-Reason"))
	}
	return n, err
}

// huge moves a huge body in one of the ways that there are.
func (l *flatLoad) huge(ctx context.Context, i int) error {
	const size = 128 << 20
	client := []*http.Client{l.plain, l.h2}[i&1]
	url := "http://" + l.mesh.at([]int{webPort, h2cPort}[i>>1&1])
	if i&4 == 0 {
		n, err := l.send(ctx, client, http.MethodGet, fmt.Sprintf("%s/big/%d?%s", url, size, strings.Repeat("chunked", i>>3&1)), nil)
		l.downloaded.Add(n)
		if err == nil && n != size {
			err = fmt.Errorf("%d bytes", n)
		}
		return err
	}
	_, err := l.send(ctx, client, http.MethodPost, url+"/sink", io.LimitReader(zeros{}, size))
	return err
}

// zeros is a reader that never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return copy(p, nothing[:]), nil }

// echo sends something on a socket of its own and waits for it.
func (l *flatLoad) echo(ctx context.Context, network, address string) error {
	d := &net.Dialer{}
	if network == "tcp" {
		d = l.mesh.dialer(1)
	}
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return err
	}
	defer c.Close()
	for range 5 { // a datagram may get lost
		if err = echoed(c, 512); network == "tcp" || err == nil {
			break
		}
	}
	return err
}

func echoed(c net.Conn, size int) error {
	if err := c.SetDeadline(time.Now().Add(flatPatience)); err != nil {
		return err
	}
	if _, err := c.Write(nothing[:size]); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, size))
	return err
}

// idle has a WebSocket that says something now and then.
func (l *flatLoad) idle(ctx context.Context, i int) error {
	c, err := l.mesh.upgrade(ctx, i%flatTenants/2)
	if err != nil {
		return err
	}
	defer c.Close()
	for ctx.Err() == nil {
		if err := echoed(c, 16); err != nil {
			return err
		}
		pause(ctx, 3*time.Second)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	if d > 0 {
		d += rand.N(d)
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (l *flatLoad) close() {
	l.plain.CloseIdleConnections()
	l.h2.CloseIdleConnections()
}

// report says what was done, and fails if something did not work out or too little was done to show anything.
func (l *flatLoad) report(t *testing.T, length time.Duration) {
	t.Helper()
	t.Logf("done: %v; %d answers of new services; %s downloaded", l.done, l.newest.Load(), mebibytes(l.downloaded.Load()))
	if n := len(l.failures); n > 0 {
		t.Errorf("%d failures, the first are:\n%s", n, strings.Join(l.failures[:min(n, 10)], "\n"))
	}
	if n := l.done["HTTP/1"]; n < int(length.Seconds())*5 || l.newest.Load() == 0 || l.done["huge body"] == 0 {
		t.Error("that is too little")
	}
}
