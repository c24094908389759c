package tunnel_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/proxy/tunnel"
)

// two makes a mesh of two nodes; web runs on the first.
func two(t testing.TB, b options, edit ...func(*identity.AuthorityConfig)) (m *mesh, from, at *node) {
	t.Helper()
	m = newMesh(t, edit...)
	from = m.node("node-a", "127.0.0.2", options{}, "web")
	return m, from, m.node("node-b", "127.0.0.3", b)
}

func TestCallerIsWhoseSVIDWasShown(t *testing.T) {
	seen := make(chan *tunnel.Stream, 2)
	m, from, _ := two(t, options{handler: func(s *tunnel.Stream) { seen <- s; forward(s) }})
	api := listen(t, echo)
	for _, caller := range []identity.ID{m.id("shop", "web"), {}} {
		c := dial(t, from, caller, to(api))
		if err := exchange(c, "hello"); err != nil {
			t.Error(err)
		}
		c.Close()
		if s := <-seen; s.Caller != caller || s.Node != "node-a" || s.Destination() != to(api) || time.Until(s.Fresh()) > time.Hour {
			t.Errorf("caller %v: seen as %v of %s, %v", caller, s.Caller, s.Node, s.Destination())
		}
	}
	// An identity that doesn't run on the node is none.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := from.Dial(ctx, m.id("shop", "admin"), "node-b", to(api)); !errors.Is(err, tunnel.ErrNoIdentity) {
		t.Errorf("as another: %v", err)
	}
	if _, err := from.Dial(t.Context(), m.id("shop", "web"), "node-c", to(api)); !errors.Is(err, tunnel.ErrNoProxy) {
		t.Errorf("to a node without a proxy: %v", err)
	}
}

// Who waits without a buffer hears of data, ends and deadlines as who reads does, and takes nothing away.
func TestAwait(t *testing.T) {
	m, from, _ := two(t, options{})
	c := dial(t, from, m.id("shop", "web"), to(listen(t, echo)))
	defer c.Close()
	await := func(want error) {
		t.Helper()
		if err := c.Await(); !errors.Is(err, want) {
			t.Errorf("%v; want %v", err, want)
		}
	}
	deadline := func(d time.Duration) {
		t.Helper()
		if err := c.SetReadDeadline(time.Now().Add(d)); err != nil {
			t.Fatal(err)
		}
	}
	deadline(10 * time.Millisecond)
	await(os.ErrDeadlineExceeded)
	deadline(10 * time.Second)
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	await(nil)
	await(nil)
	if b := make([]byte, 10); !readsAll(c, b[:5]) || string(b[:5]) != "hello" {
		t.Errorf("read %q", b)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	await(io.EOF)
	c.Close()
	await(net.ErrClosed)
}

func readsAll(r io.Reader, b []byte) bool {
	_, err := io.ReadFull(r, b)
	return err == nil
}

func TestHalfClose(t *testing.T) {
	m, from, _ := two(t, options{})
	api := listen(t, func(c *net.TCPConn) {
		all, _ := io.ReadAll(c) // to the client's end
		fmt.Fprintf(c, "%d bytes", len(all))
	})
	// Frames, records and buffers all have their sizes.
	for _, n := range []int{0, 1, 3, 4096, 16381, 16384, 100_000, 1 << 20} {
		c := dial(t, from, m.id("shop", "web"), to(api))
		if _, err := c.Write(bytes.Repeat([]byte("x"), n)); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c)
		if want := fmt.Sprintf("%d bytes", n); err != nil || string(got) != want {
			t.Errorf("%q, %v; want %s", got, err, want)
		}
		if _, err := c.Write([]byte("more")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("written after the end: %v", err)
		}
		c.Close()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read after Close: %v", err)
		}
	}
}

func TestServerSpeaksFirst(t *testing.T) {
	m, from, _ := two(t, options{})
	api := listen(t, func(c *net.TCPConn) { fmt.Fprint(c, "220 ready"); _, _ = io.Copy(io.Discard, c) })
	c := dial(t, from, m.id("shop", "web"), to(api))
	defer c.Close()
	b := make([]byte, 9)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "220 ready" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestResetsPass(t *testing.T) {
	m, from, _ := two(t, options{})
	gone := make(chan error, 1)
	api := listen(t, func(c *net.TCPConn) {
		b := make([]byte, 5)
		_, _ = io.ReadFull(c, b)
		if string(b) == "reset" {
			_ = c.SetLinger(0)
			return
		}
		_, err := c.Read(b)
		gone <- err
	})
	c := dial(t, from, m.id("shop", "web"), to(api))
	fmt.Fprint(c, "reset")
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the server reset: %v", err)
	}
	c.Close()
	c = dial(t, from, m.id("shop", "web"), to(api))
	fmt.Fprint(c, "hello")
	c.Reset()
	if err := <-gone; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client reset: %v", err)
	}
}

func TestDeadlinesAreClocks(t *testing.T) {
	m, from, _ := two(t, options{})
	c := dial(t, from, m.id("shop", "web"), to(listen(t, echo)))
	defer c.Close()
	for range 3 {
		if err := c.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		var timeout net.Error
		if _, err := c.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Fatalf("nothing to read: %v", err)
		}
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if err := exchange(c, "still here"); err != nil {
		t.Error(err)
	}
}

func handshakes(t *testing.T, c prometheus.Collector, name string) int {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return int(m.GetCounter().GetValue() + m.GetGauge().GetValue())
		}
	}
	return 0
}

func TestLinksAreUsedAgain(t *testing.T) {
	m, from, at := two(t, options{})
	api, other := listen(t, echo), listen(t, echo)
	for i := range 50 {
		d := to(api)
		if i%2 == 1 {
			d = to(other)
		}
		c := dial(t, from, m.id("shop", "web"), d)
		if err := exchange(c, fmt.Sprint("call ", i)); err != nil {
			t.Fatal(err)
		}
		c.Close()
		eventually(t, "all links are free again", func() bool {
			return handshakes(t, from.Client, "tulle_proxy_tunnel_client_idle") == handshakes(t, from.Client, "tulle_proxy_tunnel_client_handshakes_total")
		})
	}
	// One for the first call and one or two ahead of need.
	if n := handshakes(t, from.Client, "tulle_proxy_tunnel_client_handshakes_total"); n > 4 {
		t.Errorf("%d handshakes for 50 connections", n)
	}
	if n := handshakes(t, at.Server, "tulle_proxy_tunnel_server_connections_total"); n != 50 {
		t.Errorf("%d connections", n)
	}
	// Another caller's call never travels on them.
	c := dial(t, from, identity.ID{}, to(api))
	defer c.Close()
	if n := handshakes(t, from.Client, "tulle_proxy_tunnel_client_reused_total"); n > 49 {
		t.Error("a link of another caller was used")
	}
	if problems, err := testutil.CollectAndLint(from.Client); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	if problems, err := testutil.CollectAndLint(at.Server); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

func TestManyAtOnce(t *testing.T) {
	m, from, _ := two(t, options{})
	api := listen(t, echo)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			for j := range 10 {
				c, err := from.Dial(t.Context(), m.id("shop", "web"), "node-b", to(api))
				if err == nil {
					err = exchange(c, strings.Repeat(fmt.Sprint(i, " ", j, ";"), 500))
					c.Close()
				}
				if err != nil {
					t.Errorf("%d %d: %v", i, j, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestDestinationsAreJudgedWhereTheyAre(t *testing.T) {
	var served atomic.Int64
	api := listen(t, echo)
	m, from, _ := two(t, options{
		server: func(c *tunnel.ServerConfig) {
			c.Check = func(d tunnel.Destination) tunnel.Reason {
				switch {
				case d.Pod != "shop/api-1":
					return tunnel.NotHere
				case d.Address != api || d.UDP:
					return tunnel.NotExposed
				}
				return ""
			}
		},
		handler: func(s *tunnel.Stream) { served.Add(1); forward(s) },
	})
	elsewhere, admin, udp := to(api), to(netip.MustParseAddrPort("127.0.0.1:15000")), to(api)
	elsewhere.Pod, udp.UDP = "shop/web-1", true
	for _, tc := range []struct {
		d    tunnel.Destination
		want tunnel.Reason
	}{{elsewhere, tunnel.NotHere}, {admin, tunnel.NotExposed}, {udp, tunnel.NotExposed}} {
		var refused *tunnel.RefusedError
		if _, err := from.Dial(t.Context(), m.id("shop", "web"), "node-b", tc.d); !errors.As(err, &refused) || refused.Reason != tc.want {
			t.Errorf("%v: %v", tc.d, err)
		}
	}
	if served.Load() != 0 {
		t.Error("a refused destination was served")
	}
	c := dial(t, from, m.id("shop", "web"), to(api)) // the link is none the worse for it
	defer c.Close()
	if err := exchange(c, "allowed"); err != nil {
		t.Error(err)
	}
	if n := handshakes(t, from.Client, "tulle_proxy_tunnel_client_handshakes_total"); n > 2 {
		t.Errorf("%d handshakes", n)
	}
	if _, err := from.Dial(t.Context(), m.id("shop", "web"), "node-b", tunnel.Destination{Address: api}); err == nil {
		t.Error("half a destination was taken")
	}
}

func TestConnectFailureIsTold(t *testing.T) {
	m, from, _ := two(t, options{})
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	var refused *tunnel.RefusedError
	_, err = from.Dial(t.Context(), m.id("shop", "web"), "node-b", to(netip.MustParseAddrPort(closed.Addr().String())))
	if !errors.As(err, &refused) || refused.Reason != tunnel.ConnectFailed {
		t.Error(err)
	}
}

func TestDatagrams(t *testing.T) {
	m, from, _ := two(t, options{})
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	go func() {
		b := make([]byte, 65536)
		for {
			n, a, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(b[:n], a)
		}
	}()
	d := to(netip.MustParseAddrPort(pc.LocalAddr().String()))
	d.UDP = true
	c := dial(t, from, m.id("shop", "web"), d)
	defer c.Close()
	b := make([]byte, 65536)
	for _, n := range []int{5, 0, 1, 1472, 9000, 60_000} {
		sent := bytes.Repeat([]byte{byte(n)}, n)
		if _, err := c.Write(sent); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Read(b); err != nil || !bytes.Equal(b[:got], sent) {
			t.Errorf("%d bytes came back as %d, %v", n, got, err)
		}
	}
	if _, err := c.Write(make([]byte, 65536)); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("too large: %v", err)
	}
}

// A datagram never waits for one that found the way blocked.
func TestDatagramsAreDroppedRatherThanQueued(t *testing.T) {
	hold := make(chan struct{})
	m, from, _ := two(t, options{handler: func(s *tunnel.Stream) {
		if s.Accept() == nil {
			<-hold // reads nothing
		}
	}})
	defer close(hold)
	d := to(netip.MustParseAddrPort("127.0.0.1:9"))
	d.UDP = true
	c := dial(t, from, m.id("shop", "web"), d)
	defer c.Close()
	began := time.Now()
	for range 2000 {
		if _, err := c.Write(make([]byte, 30_000)); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); c.Dropped() == 0 || took > 5*time.Second {
		t.Errorf("%d dropped in %v", c.Dropped(), took)
	}
}

func TestDrain(t *testing.T) {
	m, from, at := two(t, options{})
	api := listen(t, echo)
	c := dial(t, from, m.id("shop", "web"), to(api))
	drained := make(chan error, 1)
	go func() { drained <- at.Drain(t.Context()) }()
	eventually(t, "new connections are refused", func() bool {
		o, err := from.Dial(t.Context(), m.id("shop", "web"), "node-b", to(api))
		if err == nil {
			o.Close()
		}
		return err != nil
	})
	if err := exchange(c, "goes on"); err != nil {
		t.Error(err)
	}
	select {
	case err := <-drained:
		t.Errorf("drained with a connection open: %v", err)
	default:
	}
	c.Close()
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

func TestDrainHasALimit(t *testing.T) {
	m, from, at := two(t, options{})
	c := dial(t, from, m.id("shop", "web"), to(listen(t, echo)))
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := at.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after the cut: %v", err)
	}
}
