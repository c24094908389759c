package tunnel_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/proxy/tunnel"
)

const domain = "cluster.local"

// mesh is a CA and nodes with a proxy each.
type mesh struct {
	t         testing.TB
	td        identity.TrustDomain
	authority *identity.Authority
	root      *identity.Issuer

	mu     sync.Mutex
	record identity.Record
	nodes  []*node
}

func newMesh(t testing.TB, edit ...func(*identity.AuthorityConfig)) *mesh {
	t.Helper()
	td, err := identity.ParseTrustDomain(domain)
	if err != nil {
		t.Fatal(err)
	}
	config := identity.AuthorityConfig{TrustDomain: td, Life: time.Hour}
	for _, e := range edit {
		e(&config)
	}
	m := &mesh{t: t, td: td, authority: identity.NewAuthority(config)}
	m.rotate()
	return m
}

// rotate gives the mesh a new root, the way the controllers do.
func (m *mesh) rotate() {
	m.t.Helper()
	now := time.Now()
	root, err := identity.NewRoot(m.td, now, 24*time.Hour)
	if err != nil {
		m.t.Fatal(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.root = root
	m.record = m.record.Next(root.Roots(), now, m.authority.Config().Keep())
	m.authority.Update(m.record, root)
	for _, n := range m.nodes {
		n.keeper.Trust(m.authority.Bundle())
	}
}

// retire drops the roots that are not in use, as happens after a while.
func (m *mesh) retire() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.record = m.record[len(m.record)-1:]
	m.authority.Update(m.record, m.root)
	for _, n := range m.nodes {
		n.keeper.Trust(m.authority.Bundle())
	}
}

func (m *mesh) id(namespace, account string) identity.ID {
	m.t.Helper()
	id, err := identity.Account(m.td, namespace, account)
	if err != nil {
		m.t.Fatal(err)
	}
	return id
}

func (m *mesh) self() identity.ID { return m.id("tulle-system", "tulle-proxy") }

// node is one node's proxy.
type node struct {
	mesh   *mesh
	name   string
	addr   netip.Addr
	keeper *identity.Keeper
	*tunnel.Client
	*tunnel.Server
	listen netip.AddrPort
}

// signer is the controller, as the proxy of one node is known to it.
type signer struct {
	mesh *mesh
	node string
}

func (s signer) Sign(_ context.Context, namespace, account string, csr []byte) ([][]byte, error) {
	return s.mesh.authority.Sign(csr, namespace, account, s.node, time.Now())
}

type options struct {
	client  func(*tunnel.ClientConfig)
	server  func(*tunnel.ServerConfig)
	handler func(*tunnel.Stream)
}

// node starts the proxy of a node on which the accounts of namespace shop run.
func (m *mesh) node(name, addr string, o options, accounts ...string) *node {
	m.t.Helper()
	n := &node{mesh: m, name: name, addr: netip.MustParseAddr(addr)}
	n.keeper = identity.NewKeeper(identity.KeeperConfig{Signer: signer{m, name}, Retry: 50 * time.Millisecond})
	n.keeper.Trust(m.authority.Bundle())
	ids := []identity.ID{m.self()}
	for _, a := range accounts {
		ids = append(ids, m.id("shop", a))
	}
	n.keeper.Want(ids...)
	run(m.t, n.keeper.Run)

	cc := tunnel.ClientConfig{Source: n.keeper, Self: m.self, Proxies: m.proxies, Local: n.addr}
	sc := tunnel.ServerConfig{
		Source: n.keeper, Self: m.self, Peer: m.peer, Handler: o.handler,
		Check: func(tunnel.Destination) tunnel.Reason { return "" },
	}
	if sc.Handler == nil {
		sc.Handler = forward
	}
	if o.client != nil {
		o.client(&cc)
	}
	if o.server != nil {
		o.server(&sc)
	}
	n.Client, n.Server = tunnel.NewClient(cc), tunnel.NewServer(sc)
	l, err := net.Listen("tcp", netip.AddrPortFrom(n.addr, 0).String())
	if err != nil {
		m.t.Fatal(err)
	}
	n.listen = netip.MustParseAddrPort(l.Addr().String())
	served := make(chan error, 1)
	go func() { served <- n.Serve(l) }()
	m.t.Cleanup(func() {
		n.Close()
		l.Close()
		n.Cut()
		if err := <-served; err != nil {
			m.t.Error(err)
		}
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	m.nodes = append(m.nodes, n)
	return n
}

func (m *mesh) proxies(name string) []netip.AddrPort {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.nodes {
		if n.name == name {
			return []netip.AddrPort{n.listen}
		}
	}
	return nil
}

func (m *mesh) peer(addr netip.Addr) (string, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.nodes {
		if n.addr == addr {
			return n.name, true
		}
	}
	return "", false
}

func run(t testing.TB, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// forward is a handler that connects to the destination, as the proxy does.
func forward(s *tunnel.Stream) {
	network := "tcp"
	if s.Destination().UDP {
		network = "udp"
	}
	pod, err := net.Dial(network, s.Destination().Address.String())
	if err != nil {
		_ = s.Refuse(tunnel.ConnectFailed)
		return
	}
	defer pod.Close()
	if s.Accept() != nil {
		return
	}
	if s.Destination().UDP {
		go copyDatagrams(s, pod)
		copyDatagrams(pod, s)
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { half(s, pod) })
	half(pod.(*net.TCPConn), s)
	wg.Wait()
}

type halfCloser interface {
	net.Conn
	CloseWrite() error
}

func half(dst halfCloser, src net.Conn) {
	if _, err := io.Copy(dst, src); err != nil {
		if s, ok := dst.(*tunnel.Stream); ok {
			s.Reset()
		} else if c, ok := dst.(*net.TCPConn); ok {
			_ = c.SetLinger(0)
			c.Close()
		}
		return
	}
	_ = dst.CloseWrite()
}

func copyDatagrams(dst, src net.Conn) {
	b := make([]byte, 65536)
	for {
		n, err := src.Read(b)
		if err != nil {
			return
		}
		if _, err := dst.Write(b[:n]); err != nil {
			return
		}
	}
}

// listen starts a TCP server whose connections f serves.
func listen(t testing.TB, f func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				f(c.(*net.TCPConn))
			}()
		}
	}()
	return netip.MustParseAddrPort(l.Addr().String())
}

func echo(c *net.TCPConn) { _, _ = io.Copy(c, c) }

func to(addr netip.AddrPort) tunnel.Destination {
	return tunnel.Destination{Address: addr, Pod: "shop/api-1", Service: "shop/api", Port: 80}
}

// exchange sends and expects the same back.
func exchange(c net.Conn, text string) error {
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	b := make([]byte, len(text))
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	if string(b) != text {
		return errors.New("came back as " + string(b))
	}
	return nil
}

func dial(t testing.TB, n *node, caller identity.ID, d tunnel.Destination) *tunnel.Conn {
	t.Helper()
	c, err := n.Dial(t.Context(), caller, "node-b", d)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("timed out: %s", what)
		}
	}
}
