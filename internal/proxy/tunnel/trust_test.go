package tunnel_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"net"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/proxy/tunnel"
)

// ca signs anything, as the mesh's CA never would.
type ca struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t *testing.T) *ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: "root"}, NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err == nil {
		c, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &ca{t, c, key}
}

// sign makes a certificate that is good but for what edit changes; swap replaces bytes of what is signed.
func (c *ca) sign(id, node string, edit func(*x509.Certificate), swap ...string) *tls.Certificate {
	c.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	u, err := url.Parse(id)
	if err != nil {
		c.t.Fatal(err)
	}
	leaf := &x509.Certificate{
		Subject:   pkix.Name{Organization: []string{"tulle"}, OrganizationalUnit: []string{"node:" + node}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{u},
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
	if len(swap) == 2 {
		// The library makes no such name: it is put in as an extension.
		name := append([]byte{0x86, byte(len(swap[1]))}, swap[1]...)
		leaf.URIs = nil
		leaf.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 17}, Value: append([]byte{0x30, byte(len(name))}, name...)}}
	}
	if edit != nil {
		edit(leaf)
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, c.cert, key.Public(), c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// fixed is a Source of one certificate.
type fixed struct {
	cert   *tls.Certificate
	bundle *identity.Bundle
}

func (f fixed) SVID(context.Context, identity.ID) (*identity.SVID, error) {
	return &identity.SVID{Certificate: f.cert, NotAfter: time.Now().Add(time.Hour)}, nil
}
func (f fixed) Bundle() *identity.Bundle { return f.bundle }

const (
	web   = "spiffe://cluster.local/ns/shop/sa/web"
	proxy = "spiffe://cluster.local/ns/tulle-system/sa/tulle-proxy"
)

func until(d time.Duration) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.NotAfter = time.Now().Add(d) }
}

func after(d time.Duration) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.NotBefore = time.Now().Add(d) }
}

func alsoURI(id string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		u, _ := url.Parse(id)
		c.URIs = append(c.URIs, u)
	}
}

// Whatever is wrong with a certificate, of the caller or of the proxy called: nothing is served, and nothing is sent.
func TestBadCertificatesAreRefused(t *testing.T) {
	root, other := newCA(t), newCA(t)
	m := newMesh(t)
	bundle, err := identity.NewBundle(m.td, []*x509.Certificate{root.cert})
	if err != nil {
		t.Fatal(err)
	}
	var served atomic.Int64
	api := listen(t, func(c *net.TCPConn) { served.Add(1); echo(c) })
	goodCaller, goodProxy := root.sign(web, "node-a", nil), root.sign(proxy, "node-b", nil)
	for _, tc := range []struct {
		what           string
		caller, server *tls.Certificate
		ok             bool
	}{
		{"all is well", goodCaller, goodProxy, true},
		{"caller: ended", root.sign(web, "node-a", until(-time.Minute)), goodProxy, false},
		{"caller: not begun", root.sign(web, "node-a", after(time.Minute)), goodProxy, false},
		{"caller: another trust domain", root.sign("spiffe://elsewhere/ns/shop/sa/web", "node-a", nil), goodProxy, false},
		{"caller: a NUL in the SAN", root.sign(web, "node-a", nil, web, web+"\x00.x"), goodProxy, false},
		{"caller: two URIs", root.sign(web, "node-a", alsoURI("spiffe://cluster.local/ns/shop/sa/admin")), goodProxy, false},
		{"caller: no URI", root.sign(web, "node-a", func(c *x509.Certificate) { c.URIs = nil }), goodProxy, false},
		{"caller: another root", other.sign(web, "node-a", nil), goodProxy, false},
		{"caller: no certificate", &tls.Certificate{}, goodProxy, false},
		{"caller: of another node", root.sign(web, "node-x", nil), goodProxy, false},
		{"caller: of no node", root.sign(web, "", nil), goodProxy, false},
		{"proxy: ended", goodCaller, root.sign(proxy, "node-b", until(-time.Minute)), false},
		{"proxy: another trust domain", goodCaller, root.sign("spiffe://elsewhere/ns/tulle-system/sa/tulle-proxy", "node-b", nil), false},
		{"proxy: a workload", goodCaller, root.sign(web, "node-b", nil), false},
		{"proxy: another node's", goodCaller, root.sign(proxy, "node-a", nil), false},
		{"proxy: another root", goodCaller, other.sign(proxy, "node-b", nil), false},
	} {
		t.Run(tc.what, func(t *testing.T) {
			m := newMesh(t)
			from := m.node("node-a", "127.0.0.2", options{client: func(c *tunnel.ClientConfig) { c.Source = fixed{tc.caller, bundle} }})
			at := m.node("node-b", "127.0.0.3", options{server: func(c *tunnel.ServerConfig) { c.Source = fixed{tc.server, bundle} }})
			before := served.Load()
			c, err := from.Dial(t.Context(), m.id("shop", "web"), "node-b", to(api))
			if (err == nil) != tc.ok {
				t.Fatalf("dialled: %v", err)
			}
			if err == nil {
				if err := exchange(c, "hello"); err != nil {
					t.Error(err)
				}
				c.Close()
			} else if errors.Is(err, tunnel.ErrUnreachable) {
				t.Errorf("it is taken for a proxy that is gone: %v", err)
			} else if served.Load() != before || handshakes(t, at.Server, "tulle_proxy_tunnel_server_connections_total") != 0 {
				t.Error("refused, and served")
			}
		})
	}
}

// An SVID with its key is of no use but to the proxy that it was issued to.
func TestStolenSVIDIsOfNoUseElsewhere(t *testing.T) {
	m, from, _ := two(t, options{})
	api := listen(t, echo)
	thief := m.node("node-c", "127.0.0.4", options{client: func(c *tunnel.ClientConfig) { c.Source = from.keeper }})
	stranger := tunnel.NewClient(tunnel.ClientConfig{ // a pod that is no proxy
		Source: from.keeper, Self: m.self, Proxies: m.proxies, Local: netip.MustParseAddr("127.0.0.9"),
	})
	defer stranger.Close()
	for what, c := range map[string]*tunnel.Client{"another node's proxy": thief.Client, "a pod": stranger} {
		var refused *tunnel.RefusedError
		if _, err := c.Dial(t.Context(), m.id("shop", "web"), "node-b", to(api)); !errors.As(err, &refused) || refused.Reason != tunnel.UnknownPeer {
			t.Errorf("%s: %v", what, err)
		}
	}
	dial(t, from, m.id("shop", "web"), to(api)).Close()
}

// A proxy that has just started may be unknown for a moment.
func TestNewProxyIsWaitedFor(t *testing.T) {
	known := make(chan struct{})
	m, from, _ := two(t, options{server: func(c *tunnel.ServerConfig) {
		c.Peer = func(netip.Addr) (string, bool) {
			select {
			case <-known:
				return "node-a", true
			default:
				close(known)
				return "", false
			}
		}
	}})
	dial(t, from, m.id("shop", "web"), to(listen(t, echo))).Close()
}

func TestOldTLSIsRefused(t *testing.T) {
	m, from, at := two(t, options{})
	svid, err := from.keeper.SVID(t.Context(), m.id("shop", "web"))
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]*tls.Config{
		"TLS 1.2":          {MaxVersion: tls.VersionTLS12, NextProtos: []string{"tulle-tunnel/1"}},
		"another protocol": {NextProtos: []string{"h2"}},
		"no protocol":      {},
	} {
		c.InsecureSkipVerify, c.Certificates = true, []tls.Certificate{*svid.Certificate}
		conn, err := tls.Dial("tcp", at.listen.String(), c)
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
			conn.Close()
		}
		if err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// tap is a wire between two proxies that somebody listens to.
type tap struct {
	mu   sync.Mutex
	seen bytes.Buffer
}

func (w *tap) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen.Write(b)
}

func (w *tap) saw(text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return bytes.Contains(w.seen.Bytes(), []byte(text))
}

// wire carries connections on to addr.
func (w *tap) wire(t *testing.T, from, addr string) netip.AddrPort {
	return listen(t, func(c *net.TCPConn) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		on, err := d.Dial("tcp", addr)
		if err != nil {
			return
		}
		defer on.Close()
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = io.Copy(io.MultiWriter(on, w), c); _ = on.(*net.TCPConn).CloseWrite() })
		_, _ = io.Copy(io.MultiWriter(c, w), on)
		_ = c.CloseWrite()
		wg.Wait()
	})
}

func TestNothingIsReadableOnTheWire(t *testing.T) {
	const secret = "the password is swordfish"
	var plain, secure tap
	api := listen(t, echo)
	// The control: the same tap sees what is not tunnelled.
	c, err := net.Dial("tcp", plain.wire(t, "127.0.0.2", api.String()).String())
	if err != nil {
		t.Fatal(err)
	}
	if err := exchange(c, secret); err != nil {
		t.Fatal(err)
	}
	c.Close()
	eventually(t, "the tap works", func() bool { return plain.saw(secret) })

	m := newMesh(t)
	at := m.node("node-b", "127.0.0.3", options{})
	wire := secure.wire(t, "127.0.0.2", at.listen.String())
	from := m.node("node-a", "127.0.0.2", options{client: func(c *tunnel.ClientConfig) {
		c.Proxies, c.Local = func(string) []netip.AddrPort { return []netip.AddrPort{wire} }, netip.Addr{}
	}}, "web")
	tunnelled := dial(t, from, m.id("shop", "web"), to(api))
	if err := exchange(tunnelled, secret); err != nil {
		t.Fatal(err)
	}
	tunnelled.Close()
	eventually(t, "all has passed", func() bool { return handshakes(t, from.Client, "tulle_proxy_tunnel_client_idle") > 0 })
	for _, text := range []string{secret, "shop/api", "spiffe://", "node-a", "node-b"} {
		if secure.saw(text) {
			t.Errorf("%q is readable on the wire", text)
		}
	}
}

// Roots are replaced and dropped, SVIDs are renewed every three seconds or so, and nobody's call fails. What is left of one is
// more than a handshake takes on a machine that has no time.
func TestRotationUnderCalls(t *testing.T) {
	m, from, _ := two(t, options{}, func(c *identity.AuthorityConfig) { c.Life, c.Spread = 6*time.Second, 200*time.Millisecond })
	api := listen(t, echo)
	long := dial(t, from, m.id("shop", "web"), to(api)) // goes on all the while
	defer long.Close()
	var calls [4]atomic.Int64
	stop := make(chan struct{})
	var callers sync.WaitGroup
	for i := range calls {
		callers.Go(func() {
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				c, err := from.Dial(t.Context(), m.id("shop", "web"), "node-b", to(api))
				if err == nil {
					err = exchange(c, "hello")
					c.Close()
				}
				if err != nil {
					t.Errorf("caller %d: %v", i, err)
					return
				}
				calls[i].Add(1)
			}
		})
	}
	settled := func() bool { // every SVID is of the root in use
		b, err := identity.NewBundle(m.td, m.root.Roots())
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range m.nodes {
			svid, err := n.keeper.SVID(t.Context(), m.self())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := identity.ParseAndVerify(svid.Certificate.Certificate, b, time.Now()); err != nil {
				return false
			}
		}
		svid, err := from.keeper.SVID(t.Context(), m.id("shop", "web"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = identity.ParseAndVerify(svid.Certificate.Certificate, b, time.Now())
		return err == nil
	}
	for range 2 {
		m.rotate()
		eventually(t, "SVIDs of the new root", settled)
		// The mesh keeps a root for minutes after that; here it is until nobody shakes hands any more by what was before.
		for i := range calls {
			enough := calls[i].Load() + 2
			eventually(t, "calls that began since", func() bool { return calls[i].Load() >= enough || t.Failed() })
		}
		m.retire()
	}
	close(stop)
	callers.Wait()
	var all int64
	for i := range calls {
		all += calls[i].Load()
	}
	if err := exchange(long, "still here"); err != nil {
		t.Errorf("a connection as old as all this: %v", err)
	}
	if s := from.keeper.Status(time.Now()); s.Failed != 0 || all < 20 {
		t.Errorf("%d calls, keeper %+v", all, s)
	}
	t.Logf("%d calls, %d handshakes", all, handshakes(t, from.Client, "tulle_proxy_tunnel_client_handshakes_total"))
}

// A proxy that gives up during the handshake, as one without an SVID or with too much to do may, is out of reach: to the
// caller's side the handshake is over by then, and only the answer that doesn't come says so.
func TestWhoGivesUpIsOutOfReach(t *testing.T) {
	root := newCA(t)
	m := newMesh(t)
	bundle, err := identity.NewBundle(m.td, []*x509.Certificate{root.cert})
	if err != nil {
		t.Fatal(err)
	}
	for what, verify := range map[string]func(*net.TCPConn){
		"it closes":  func(c *net.TCPConn) { c.Close() },
		"it resets":  func(c *net.TCPConn) { _ = c.SetLinger(0); c.Close() },
		"it says no": nil,
		"it hangs":   func(*net.TCPConn) { <-t.Context().Done() },
	} {
		t.Run(what, func(t *testing.T) {
			at := listen(t, func(c *net.TCPConn) {
				_ = tls.Server(c, &tls.Config{
					Certificates: []tls.Certificate{*root.sign(proxy, "node-b", nil)}, ClientAuth: tls.RequireAnyClientCert,
					MinVersion: tls.VersionTLS13, NextProtos: []string{"tulle-tunnel/1"},
					VerifyConnection: func(tls.ConnectionState) error {
						if verify != nil {
							verify(c)
						}
						return errors.New("no")
					},
				}).HandshakeContext(t.Context())
				_, _ = io.Copy(io.Discard, c) // an end with something unread would be a reset
			})
			from := tunnel.NewClient(tunnel.ClientConfig{
				Source: fixed{root.sign(web, "node-a", nil), bundle}, Self: m.self, AnswerTimeout: 200 * time.Millisecond,
				Proxies: func(string) []netip.AddrPort { return []netip.AddrPort{at} },
			})
			defer from.Close()
			_, err := from.Dial(t.Context(), m.id("shop", "web"), "node-b", to(at))
			if err == nil || errors.Is(err, tunnel.ErrUnreachable) != (verify != nil) {
				t.Errorf("%v", err)
			}
		})
	}
}

// What a link's certificates proved lasts as long as they do.
func TestNothingNewOnAnExpiredLink(t *testing.T) {
	now := time.Now()
	root := newCA(t)
	m := newMesh(t)
	bundle, err := identity.NewBundle(m.td, []*x509.Certificate{root.cert})
	if err != nil {
		t.Fatal(err)
	}
	end := func(c *x509.Certificate) {
		c.NotAfter = now.Add(1500 * time.Millisecond).Truncate(time.Second).Add(time.Second)
	}
	short := root.sign(web, "node-a", end)
	from := m.node("node-a", "127.0.0.2", options{client: func(c *tunnel.ClientConfig) { c.Source = fixed{short, bundle} }})
	m.node("node-b", "127.0.0.3", options{server: func(c *tunnel.ServerConfig) { c.Source = fixed{root.sign(proxy, "node-b", nil), bundle} }})
	api := listen(t, echo)
	c := dial(t, from, m.id("shop", "web"), to(api))
	defer c.Close()
	dial(t, from, m.id("shop", "web"), to(api)).Close() // leaves a link that waits
	eventually(t, "nothing new is served", func() bool {
		o, err := from.Dial(t.Context(), m.id("shop", "web"), "node-b", to(api))
		if err == nil {
			o.Close()
		}
		return err != nil
	})
	if time.Since(now) < time.Second {
		t.Error("refused too early")
	}
	if err := exchange(c, "goes on"); err != nil {
		t.Errorf("what was open already: %v", err)
	}
}
