package proxy_test

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/proxy/tunnel"
)

// spireLife is that of SVIDs. SPIRE dates them back by ten seconds and renews them at half of the whole: here when 13 s
// are left, a tenth more or less.
const spireLife = 16 * time.Second

// spireCluster is a cluster whose nodes have agents of a SPIRE server.
type spireCluster struct {
	*cluster
	server *spireServer
	agents map[string]*spireAgent
	log    *buffer
}

var spireAccounts = map[string][]string{
	"node-a": {"tulle-system/tulle-proxy", "shop/client", "shop/other"},
	"node-b": {"tulle-system/tulle-proxy", "shop/web", "shop/open"},
}

func newSPIRECluster(t *testing.T) *spireCluster {
	t.Helper()
	s := newSPIREServer(t, "cluster.local")
	c := &spireCluster{server: s, agents: map[string]*spireAgent{}, log: &buffer{}}
	at := map[string]string{}
	for node := range spireAccounts {
		c.agents[node] = s.agent(node)
		at[node] = c.agents[node].address()
	}
	s.register(spireLife, nil, spireAccounts)
	c.cluster = newCluster(t, clusterOptions{spire: at, log: slog.New(slog.NewTextHandler(c.log, nil))})
	c.holds(c.a)
	c.holds(c.b)
	return c
}

// A SPIRE server and the agents of two nodes give the proxies what they need: one after the other, as starting them takes
// a while.
func TestSPIRE(t *testing.T) {
	c := newSPIRECluster(t)
	for _, part := range []struct {
		name string
		run  func(*testing.T, *spireCluster)
	}{
		{"calls to another node", spireCalls},
		{"renewal and a new root", spireRenewal},
		{"entries that are deleted", spireEntries},
		{"an agent that is gone", spireAgentGone},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(t, c) })
	}
}

func spireCalls(t *testing.T, c *spireCluster) {
	policy := allow("shop/client", enforce, httpRule)
	front := "http://" + c.expose("web", httpPort, policy, webServer(t, webAt, header))
	const known = "[By=spiffe://cluster.local/ns/shop/sa/web;URI=spiffe://cluster.local/ns/shop/sa/client]"
	for _, h2 := range []bool{false, true} {
		for what, got := range map[string][2]string{
			"who is allowed":              {call(httpFrom(t, clientAt, h2), front+"/api/x", forged), "200 " + known + "[" + clientAt + "][]"},
			"a path that isn't allowed":   {call(httpFrom(t, clientAt, h2), front+"/x"), "403 route-denied"},
			"another account":             {call(httpFrom(t, otherAt, h2), front+"/api/x", forged), "403 source-denied"},
			"nobody, by the proxy's SVID": {call(httpFrom(t, nobodyAt, h2), front+"/api/x", forged), "403 unknown-caller"},
		} {
			if got[0] != got[1] {
				t.Errorf("h2 %v: %s: %s, want %s", h2, what, got[0], got[1])
			}
		}
	}
	tcp := c.expose("db", tcpPort, allow("shop/client", enforce, tcpRule), listenAt(t, webAt, echo))
	conn := dialFrom(t, clientAt, tcp)
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
		t.Error(err)
	}
	mustReset(t, otherAt, tcp)
	if c.a.metric("tulle_proxy_tunnel_client_connections_total") == 0 || c.a.metric("tulle_proxy_plain_total") != 0 {
		t.Error("it did not go through tunnels")
	}
	// An agent gives a proxy what runs on its own node, of all that match its selectors.
	for _, n := range []*farNode{c.a, c.b} {
		for node, names := range spireAccounts {
			for _, name := range names {
				namespace, account, _ := strings.Cut(name, "/")
				if got, want := n.has(c.id(namespace, account)), node == n.name || name == "tulle-system/tulle-proxy"; got != want {
					t.Errorf("%s has an SVID of %s: %v", n.name, name, got)
				}
			}
		}
	}
}

// has says whether a node has an SVID right now.
func (n *farNode) has(id identity.ID) bool {
	now, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := n.source.SVID(now, id)
	return err == nil
}

// signedBy returns the ID of the authority that signed the SVID that a node has, and its serial number.
func (n *farNode) signedBy(id identity.ID) (authority, serial string) {
	n.t.Helper()
	svid, err := n.source.SVID(n.t.Context(), id)
	if err != nil {
		n.t.Fatal(err)
	}
	return hex.EncodeToString(svid.Certificate.Leaf.AuthorityKeyId), svid.Certificate.Leaf.SerialNumber.String()
}

// keepCalling calls again and again until stop, from one place, on kept connections of both kinds of HTTP and on new ones.
func keepCalling(t *testing.T, address, front string) (stop func()) {
	var wg sync.WaitGroup
	var done, failed atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	for i := range 4 {
		wg.Go(func() {
			client := httpFrom(t, address, i%2 == 1)
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				if got := call(client, front); !strings.HasPrefix(got, "200") {
					failed.Add(1)
					t.Error(got)
				}
				if done.Add(1); i >= 2 {
					client.CloseIdleConnections()
				}
				<-tick.C
			}
		})
	}
	return func() {
		cancel()
		wg.Wait()
		t.Logf("%d requests, %d failed", done.Load(), failed.Load())
	}
}

func spireRenewal(t *testing.T, c *spireCluster) {
	front := "http://" + c.expose("web", httpPort, allow("shop/client", enforce, tcpRule), webServer(t, webAt, header))
	stop := keepCalling(t, clientAt, front)
	defer stop()
	began := time.Now()
	serials := map[string]bool{}
	patiently(t, "SVIDs are renewed", func() error {
		_, serial := c.a.signedBy(c.id("shop", "client"))
		serials[serial] = true
		if len(serials) < 4 {
			return fmt.Errorf("%d SVIDs", len(serials))
		}
		return nil
	})
	t.Logf("4 SVIDs in %v", time.Since(began).Round(time.Second))

	// The operator's way to a new root: prepared, used from now on, the old one declared bad, and taken out of the bundle.
	var old, next struct {
		Active   authority `json:"active"`
		Prepared authority `json:"prepared_authority"`
	}
	c.server.ask(&old, "localauthority", "x509", "show")
	c.server.ask(&next, "localauthority", "x509", "prepare")
	if old.Active.ID == "" || next.Prepared.ID == "" || old == next {
		t.Fatalf("authorities %+v, %+v", old, next)
	}
	c.roots(t, 2)
	c.server.must(nil, "localauthority", "x509", "activate", "-authorityID", next.Prepared.ID)
	c.server.must(nil, "localauthority", "x509", "taint", "-authorityID", old.Active.ID)
	patiently(t, "all SVIDs are of the new root", func() error {
		for node, names := range spireAccounts {
			for _, name := range names {
				namespace, account, _ := strings.Cut(name, "/")
				if by, _ := c.node(node).signedBy(c.id(namespace, account)); by != next.Prepared.ID {
					return fmt.Errorf("%s on %s is signed by %s", name, node, by)
				}
			}
		}
		return nil
	})
	for _, a := range c.agents {
		patiently(t, "the agent's own SVID is of the new root", func() error { return a.said("Successfully rotated agent SVID") })
	}
	c.server.must(nil, "localauthority", "x509", "revoke", "-authorityID", old.Active.ID)
	c.roots(t, 1)
	handshakes := func() float64 { return c.a.metric("tulle_proxy_tunnel_client_handshakes_total") }
	before := handshakes()
	patiently(t, "tunnels by the new root", func() error {
		if handshakes() < before+2 {
			return errors.New("no handshakes")
		}
		return nil
	})
}

type authority struct {
	ID string `json:"authority_id"`
}

func (c *spireCluster) node(name string) *farNode {
	if name == c.a.name {
		return c.a
	}
	return c.b
}

// roots waits until both nodes trust a number of roots.
func (c *spireCluster) roots(t *testing.T, want int) {
	t.Helper()
	patiently(t, "the roots reach both nodes", func() error {
		for _, n := range []*farNode{c.a, c.b} {
			if got := len(n.source.Bundle().Roots()); got != want {
				return fmt.Errorf("%s has %d roots, want %d", n.name, got, want)
			}
		}
		return nil
	})
}

// An identity ends with its entry, and comes back with one; the others of the node go on, unless it was the last.
func spireEntries(t *testing.T, c *spireCluster) {
	web := webServer(t, webAt, header)
	policy := allow("shop/client", enforce, tcpRule)
	policy.Grants = append(policy.Grants, allow("shop/other", enforce, tcpRule).GetGrants()...)
	front := "http://" + c.expose("web", httpPort, policy, web)
	client, other := httpFrom(t, clientAt, false), httpFrom(t, otherAt, true)
	expect := func(what, want string, by func() string) {
		t.Helper()
		patiently(t, what, func() error {
			if got := by(); !strings.HasPrefix(got, want) {
				return fmt.Errorf("%s, want %s", got, want)
			}
			return nil
		})
	}
	byOther, byClient := func() string { return call(other, front) }, func() string { return call(client, front) }
	// SVIDs that last, so that they don't end by themselves.
	for _, name := range spireAccounts["node-a"] {
		c.server.unregister("node-a", name)
	}
	c.server.register(time.Hour, nil, map[string][]string{"node-a": spireAccounts["node-a"]})
	patiently(t, "SVIDs that last", func() error {
		if first := c.a.spire.Status(time.Now(), []identity.ID{c.self(), c.id("shop", "client"), c.id("shop", "other")}); first.Held != 3 || time.Until(first.FirstEnd) < 30*time.Minute {
			return fmt.Errorf("%+v", first)
		}
		return nil
	})
	expect("other has an identity", "200", byOther)

	stop := keepCalling(t, clientAt, front)
	c.server.unregister("node-a", "shop/other")
	expect("other has none", "503 no-certificate", byOther)
	stop()
	if c.a.has(c.id("shop", "other")) {
		t.Error("there is still an SVID of it")
	}
	// The proxy's own goes, and then the last that there is.
	c.server.unregister("node-a", "tulle-system/tulle-proxy")
	patiently(t, "the proxy has none", func() error {
		if c.a.has(c.self()) {
			return errors.New("it has one")
		}
		return nil
	})
	expect("client still has one", "200", byClient)
	c.server.unregister("node-a", "shop/client")
	expect("client has none", "503 no-certificate", byClient)
	if c.a.spire.Bundle() == nil || !strings.Contains(c.log.String(), "Workload API gives no identity") {
		t.Error("the agent's no was not understood")
	}
	c.server.register(spireLife, nil, map[string][]string{"node-a": spireAccounts["node-a"]})
	expect("client has one again", "200", byClient)
	expect("other has one again", "200", byOther)
}

// Without its agent, a node goes on for as long as its SVIDs last, says so, and comes back by itself.
func spireAgentGone(t *testing.T, c *spireCluster) {
	front := "http://" + c.expose("web", httpPort, allow("shop/client", enforce, tcpRule), webServer(t, webAt, header))
	id := c.id("shop", "client")
	client := httpFrom(t, clientAt, true)
	warned := func() int { return strings.Count(c.log.String(), "Workload API does not answer") }
	before := warned()
	c.agents["node-a"].stop()
	svid, err := c.a.source.SVID(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	patiently(t, "a warning", func() error {
		if warned() == before || c.a.spire.Status(time.Now(), nil).LastError == nil {
			return errors.New("none")
		}
		return nil
	})
	calls, overdue := 0, false
	for {
		got := call(client, front)
		s := c.a.spire.Status(time.Now(), []identity.ID{id})
		if !time.Now().Before(svid.NotAfter) {
			break
		}
		if calls++; !strings.HasPrefix(got, "200") {
			t.Errorf("%v before the SVID's end: %s", time.Until(svid.NotAfter), got)
		}
		overdue = overdue || s.Overdue == 1
		<-time.After(20 * time.Millisecond)
	}
	t.Logf("%d calls without an agent, until %v", calls, svid.NotAfter)
	if !overdue || calls == 0 {
		t.Errorf("it was overdue: %v, after %d calls", overdue, calls)
	}
	patiently(t, "the end", func() error {
		if got := call(client, front); got != "503 no-certificate" {
			return errors.New(got)
		}
		return nil
	})
	if s := c.a.spire.Status(time.Now(), []identity.ID{id}); s.Held != 0 || s.Wanted != 1 {
		t.Errorf("%+v", s)
	}
	c.agents["node-a"].start()
	patiently(t, "the agent is back", func() error {
		if got := call(client, front); !strings.HasPrefix(got, "200") {
			return errors.New(got)
		}
		return nil
	})
}

// An SVID of another trust domain is refused by either end, also where SPIRE federates the two and gives the proxies the
// other's roots.
func TestSPIREOfAnotherTrustDomain(t *testing.T) {
	ours, theirs := newSPIREServer(t, "cluster.local"), newSPIREServer(t, "elsewhere.org")
	ends := map[string]*tunnelEnd{}
	for s, other := range map[*spireServer]*spireServer{ours: theirs, theirs: ours} {
		bundle := filepath.Join(s.dir, "other.pem")
		write(t, bundle, "%s", other.must(nil, "bundle", "show"))
		s.must(nil, "bundle", "set", "-id", "spiffe://"+other.domain, "-path", bundle)
		a := s.agent("node")
		s.register(time.Minute, []string{"spiffe://" + other.domain}, map[string][]string{"node": {"tulle-system/tulle-proxy"}})
		ends[s.domain] = newTunnelEnd(t, s.domain, a.address())
	}
	for domain, from := range ends {
		for other, to := range ends {
			dial := from.dial(t, to.address)
			if domain == other { // the control
				if dial != nil {
					t.Errorf("within %s: %v", domain, dial)
				}
				continue
			}
			if dial == nil || !strings.Contains(dial.Error(), string(identity.WrongTrustDomain)) {
				t.Errorf("%s calls %s: %v", domain, other, dial)
			}
			// What a caller that takes anybody for a proxy gets.
			if err := from.dialAnybody(t, to.address); err == nil {
				t.Errorf("%s serves %s", other, domain)
			}
			refused := &farNode{t: t, metrics: to.metrics}
			if n := refused.metric("tulle_proxy_tunnel_server_failures_total", "reason", string(identity.WrongTrustDomain)); n != 1 {
				t.Errorf("%s refused %v for their trust domain", other, n)
			}
		}
	}
}

// tunnelEnd takes tunnels and makes them, as the proxies of a trust domain.
type tunnelEnd struct {
	source  *identity.WorkloadAPI
	self    identity.ID
	metrics *prometheus.Registry
	address netip.AddrPort
}

func newTunnelEnd(t *testing.T, domain, api string) *tunnelEnd {
	t.Helper()
	td, err := identity.ParseTrustDomain(domain)
	if err != nil {
		t.Fatal(err)
	}
	e := &tunnelEnd{source: identity.NewWorkloadAPI(identity.WorkloadAPIConfig{Addr: api}), metrics: prometheus.NewRegistry()}
	if e.self, err = identity.Account(td, "tulle-system", "tulle-proxy"); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e.address = netip.MustParseAddrPort(l.Addr().String())
	server := tunnel.NewServer(tunnel.ServerConfig{
		Source: e.source, Self: e.who, AnyNode: true,
		Peer:    func(netip.Addr) (string, bool) { return "node", true },
		Check:   func(tunnel.Destination) tunnel.Reason { return "" },
		Handler: func(s *tunnel.Stream) { _ = s.Accept() },
	})
	e.metrics.MustRegister(server)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	for _, f := range []func() error{func() error { return e.source.Run(ctx) }, func() error { return server.Serve(l) }} {
		running.Go(func() {
			if err := f(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		l.Close()
		server.Cut()
		running.Wait()
	})
	if _, err := e.source.SVID(t.Context(), e.self); err != nil {
		t.Fatal(err)
	}
	given, err := workloadapi.FetchX509Context(t.Context(), workloadapi.WithAddr(api))
	if err != nil || given.Bundles.Len() != 2 {
		t.Fatalf("the agent of %s should give the roots of both trust domains: %v", domain, err)
	}
	return e
}

func (e *tunnelEnd) who() identity.ID { return e.self }

// dial makes a tunnel, as proxies do.
func (e *tunnelEnd) dial(t *testing.T, to netip.AddrPort) error {
	t.Helper()
	client := tunnel.NewClient(tunnel.ClientConfig{
		Source: e.source, AnyNode: true, Self: e.who, HandshakeTimeout: 20 * time.Second,
		Proxies: func(string) []netip.AddrPort { return []netip.AddrPort{to} },
	})
	defer client.Close()
	conn, err := client.Dial(t.Context(), e.self, "node", tunnel.Destination{
		Address: netip.MustParseAddrPort("10.0.0.1:80"), Pod: "shop/web-0", Service: "shop/web", Port: 80,
	})
	if err == nil {
		conn.Close()
	}
	return err
}

// dialAnybody is a TLS handshake with whoever answers.
func (e *tunnelEnd) dialAnybody(t *testing.T, to netip.AddrPort) error {
	t.Helper()
	svid, err := e.source.SVID(t.Context(), e.self)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", to.String(), &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"tulle-tunnel/1"}, Certificates: []tls.Certificate{*svid.Certificate},
		InsecureSkipVerify: true, //nolint:gosec // that is the point
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	// The server's no comes after the client's part of the handshake is done.
	_, err = conn.Read(make([]byte, 1))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}
