package proxy_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/share"
	"github.com/tulle-mesh/tulle/internal/proxy/tunnel"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// The nodes of a cluster are addresses of loopback, and so are their pods. Callers run on node-a, whatever they call on
// node-b. What the two proxies say to each other passes a wire that listens.
const (
	clientAt = "127.0.10.2" // shop/client
	otherAt  = "127.0.10.3" // shop/other
	nobodyAt = "127.0.10.9" // no pod
	webAt    = "127.0.11.2" // shop/web, on node-b
	web1At   = "127.0.11.3" // another pod of it
	openAt   = "127.0.11.4" // shop/open, on node-b, which nothing protects
)

// cluster is two nodes' proxies, their CA, and what a controller would tell them.
type cluster struct {
	t         testing.TB
	td        identity.TrustDomain
	authority *identity.Authority
	a, b      *farNode
	wire      *wire

	far       share.Config // of the nodes that are made from now on
	mute      bool
	drainIdle time.Duration
	spire     map[string]string
	log       *slog.Logger

	mu     sync.Mutex
	record identity.Record
	root   *identity.Issuer
	target uint32
	at     map[string]netip.AddrPort // where tunnels to a node lead, if its proxy is ready

	stranger atomic.Bool // nobody has told the proxies of each other's addresses
}

type farNode struct {
	*proxy.Proxy
	t       testing.TB
	name    string
	addr    netip.Addr
	sockets *sockets
	metrics *prometheus.Registry
	source  identity.Source
	keeper  *identity.Keeper      // nil with SPIRE
	spire   *identity.WorkloadAPI // nil without
	client  *tunnel.Client
	server  *tunnel.Server
	listen  netip.AddrPort
	me      *configv1.Proxy
}

type clusterOptions struct {
	life time.Duration
	far  share.Config // of node-b's clients
	mute bool         // node-b gets no SVIDs

	drainIdle time.Duration // default 50 ms

	spire map[string]string // where the Workload API of each node is; without, the cluster has a CA
	log   *slog.Logger      // of who follows it
}

func newCluster(t testing.TB, o clusterOptions) *cluster {
	t.Helper()
	td, err := identity.ParseTrustDomain("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{
		t: t, td: td, target: 20000, at: map[string]netip.AddrPort{}, drainIdle: cmp.Or(o.drainIdle, 50*time.Millisecond),
		spire: o.spire, log: o.log, mute: o.mute,
		authority: identity.NewAuthority(identity.AuthorityConfig{TrustDomain: td, Life: max(o.life, 0)}),
	}
	c.rotate()
	c.a = c.node("node-a", "127.0.10.1", podAt(clientAt, "client"), podAt(otherAt, "other"))
	c.far = o.far
	c.b = c.node("node-b", "127.0.11.1", podAt(webAt, "web"), podNamed("web-1", web1At, "web"), podAt(openAt, "open"))
	c.wire = newWire(t, "127.0.11.8", c.a.addr, c.b.listen.String())
	c.ready("node-a", c.a.listen)
	c.ready("node-b", netip.MustParseAddrPort(c.wire.address))
	return c
}

func podAt(address, account string) *configv1.Caller { return podNamed(account+"-0", address, account) }

func podNamed(name, address, account string) *configv1.Caller {
	return &configv1.Caller{
		Addresses: []string{address}, Namespace: "shop", Pod: name, ServiceAccount: account, Workload: "deployment/" + account,
	}
}

// rotate gives the mesh a new root, as the controllers do.
func (c *cluster) rotate() {
	c.t.Helper()
	now := time.Now()
	root, err := identity.NewRoot(c.td, now, 24*time.Hour)
	if err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.root = root
	c.record = c.record.Next(root.Roots(), now, c.authority.Config().Keep())
	c.authority.Update(c.record, root)
	for _, n := range []*farNode{c.a, c.b} {
		if n != nil && n.keeper != nil {
			n.keeper.Trust(c.authority.Bundle())
		}
	}
}

// certifier is the controller, as the proxy of a node knows it.
type certifier struct {
	*cluster
	node string
}

func (s certifier) Sign(_ context.Context, namespace, account string, csr []byte) ([][]byte, error) {
	if s.mute && s.node == "node-b" {
		return nil, errors.New("no controller")
	}
	return s.authority.Sign(csr, namespace, account, s.node, time.Now())
}

func (c *cluster) id(namespace, account string) identity.ID {
	id, err := identity.Account(c.td, namespace, account)
	if err != nil {
		c.t.Fatal(err)
	}
	return id
}

func (c *cluster) self() identity.ID { return c.id("tulle-system", "tulle-proxy") }

func (c *cluster) node(name, addr string, pods ...*configv1.Caller) *farNode {
	c.t.Helper()
	n := &farNode{
		t: c.t, name: name, addr: netip.MustParseAddr(addr), sockets: newSockets(), metrics: prometheus.NewRegistry(),
		me: &configv1.Proxy{Node: name, InSlices: true, Callers: pods, PodRanges: []string{addr + "/24"}},
	}
	identities := c.identities(n)
	n.client = tunnel.NewClient(tunnel.ClientConfig{
		AnyNode: n.spire != nil,
		Source:  n.source, Self: c.self, Local: n.addr, IdentityWait: time.Second, HandshakeTimeout: 20 * time.Second,
		Proxies: func(node string) []netip.AddrPort {
			c.mu.Lock()
			defer c.mu.Unlock()
			if at, ok := c.at[node]; ok {
				return []netip.AddrPort{at}
			}
			return nil
		},
	})
	tunnels := &proxy.Tunnels{Client: n.client, Source: n.source}
	n.Proxy = proxy.New(proxy.Config{
		Sockets: n.sockets, Registerer: n.metrics, DrainIdle: c.drainIdle, IdentityWait: -1,
		Upstream: upstream.Config{Tunnels: tunnels}, Share: c.far,
	})
	n.server = tunnel.NewServer(tunnel.ServerConfig{
		AnyNode: n.spire != nil,
		Source:  n.source, Self: c.self, Check: n.CheckTunnel, Handler: n.ServeTunnel, HandshakeTimeout: 20 * time.Second,
		Peer: func(a netip.Addr) (string, bool) {
			c.mu.Lock()
			defer c.mu.Unlock()
			for _, p := range []*farNode{c.a, c.b} {
				if p != nil && p.addr == a && !c.stranger.Load() {
					return p.name, true
				}
			}
			return "", false
		},
	})
	n.metrics.MustRegister(n.client, n.server, tunnels)
	l, err := net.Listen("tcp", netip.AddrPortFrom(n.addr, 0).String())
	if err != nil {
		c.t.Fatal(err)
	}
	n.listen = netip.MustParseAddrPort(l.Addr().String())
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.t.Context()))
	var running sync.WaitGroup
	for _, f := range []func() error{
		func() error { return n.Run(ctx) }, func() error { return identities(ctx) }, func() error { return n.server.Serve(l) },
	} {
		running.Go(func() {
			if err := f(); err != nil {
				c.t.Error(err)
			}
		})
	}
	c.t.Cleanup(func() {
		cancel()
		l.Close()
		n.server.Cut()
		n.client.Close()
		running.Wait()
	})
	n.set("mesh", &configv1.Mesh{Zones: []string{"mesh"}, ClusterDomain: "cluster.local"})
	n.set(name+"-proxy", n.me)
	return n
}

// identities gives a node its source of SVIDs, and returns what runs it.
func (c *cluster) identities(n *farNode) func(context.Context) error {
	if at := c.spire[n.name]; at != "" {
		n.spire = identity.NewWorkloadAPI(identity.WorkloadAPIConfig{Addr: at, Log: c.log, Ended: n.forget})
		n.source = n.spire
		return n.spire.Run
	}
	n.keeper = identity.NewKeeper(identity.KeeperConfig{Signer: certifier{c, n.name}, Retry: 20 * time.Millisecond})
	n.source = n.keeper
	n.keeper.Trust(c.authority.Bundle())
	c.want(n)
	return n.keeper.Run
}

// forget is what a worker does about identities that have ended.
func (n *farNode) forget(gone map[identity.ID]bool) {
	n.Forget(func(namespace, account string) bool {
		for id := range gone {
			if ns, a, ok := identity.SplitAccount(id); ok && ns == namespace && a == account {
				return true
			}
		}
		return false
	})
}

// want tells a node's keeper who runs there.
func (c *cluster) want(n *farNode) {
	ids := []identity.ID{c.self()}
	for _, p := range n.me.GetCallers() {
		ids = append(ids, c.id(p.GetNamespace(), p.GetServiceAccount()))
	}
	n.keeper.Want(ids...)
}

// holds waits until a node has the SVIDs of its pods: until then, what isn't protected is called in the clear.
func (c *cluster) holds(n *farNode) {
	c.t.Helper()
	for _, p := range n.me.GetCallers() {
		if _, err := n.source.SVID(c.t.Context(), c.id(p.GetNamespace(), p.GetServiceAccount())); err != nil {
			c.t.Fatal(err)
		}
	}
}

// ready makes tunnels to a node lead to an address.
func (c *cluster) ready(node string, at netip.AddrPort) {
	c.mu.Lock()
	c.at[node] = at
	c.mu.Unlock()
	c.publish(node, &configv1.NodeProxies{Ready: []string{at.Addr().String()}, All: []string{at.Addr().String()}})
}

// unready takes a node's proxy away.
func (c *cluster) unready(node string) {
	c.mu.Lock()
	delete(c.at, node)
	c.mu.Unlock()
	c.publish(node, &configv1.NodeProxies{})
}

// publish tells both proxies.
func (c *cluster) publish(name string, m proto.Message) {
	c.t.Helper()
	for _, n := range []*farNode{c.a, c.b} {
		n.set(name, m)
	}
}

func (n *farNode) set(name string, m proto.Message) {
	n.t.Helper()
	r, err := configv1.NewResource(name, m)
	if err != nil {
		n.t.Fatal(err)
	}
	if refused := n.Apply(configv1.Update{Set: []configv1.Resource{r}}); len(refused) > 0 {
		n.t.Fatalf("refused: %+v", refused)
	}
}

// expose makes shop/<name> a service of pods of node-b, protected if there is a policy, and returns its front on node-a.
func (c *cluster) expose(name string, protocol configv1.Protocol, policy *configv1.Policy, addresses ...string) string {
	c.t.Helper()
	if policy != nil {
		c.publish("shop/web", policy)
	}
	c.target++
	c.publish("shop/"+name, farEndpoints(name, protocol, policy != nil, addresses...))
	c.publish("shop/"+name, service(name, protocol, 80, c.target))
	return c.a.sockets.address(protocol, c.target)
}

func farEndpoints(name string, protocol configv1.Protocol, protected bool, addresses ...string) *configv1.Endpoints {
	e := endpoints(name, protocol, 80, addresses...)
	for _, one := range e.GetPorts()[0].GetEndpoints() {
		one.Workload, one.Protected, one.Node, one.Pod = "shop/web", protected, "node-b", "web-0"
		if !protected {
			one.Workload = "shop/open" // protection is the workload's
		}
		switch one.GetAddress() {
		case webAt:
		case web1At:
			one.Pod = "web-1"
		case openAt:
			one.Pod = "open-0"
		default:
			one.Node, one.Pod = "node-c", "web-9"
		}
	}
	return e
}

// metric sums a metric over the label sets that have the given ones.
func (n *farNode) metric(name string, labels ...string) float64 {
	return (&mesh{t: n.t, metrics: n.metrics}).metric(name, labels...)
}

// from is a dialer whose connections come from a pod.
func from(address string) *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}, Timeout: 5 * time.Second}
}

// httpFrom is a client in a pod that keeps connections.
func httpFrom(t testing.TB, address string, h2 bool) *http.Client {
	t.Helper()
	tr := &http.Transport{DialContext: from(address).DialContext, Protocols: new(http.Protocols)}
	tr.Protocols.SetHTTP1(!h2)
	tr.Protocols.SetUnencryptedHTTP2(h2)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 15 * time.Second}
}

// call says what comes of a GET: "200 body", or the status and the reason.
func call(c *http.Client, url string, change ...func(*http.Request)) string {
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err.Error()
	}
	for _, f := range change {
		f(r)
	}
	resp, err := c.Do(r)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	if reason := resp.Header.Get("Tulle-Reason"); reason != "" {
		return fmt.Sprint(resp.StatusCode, " ", reason)
	}
	return fmt.Sprint(resp.StatusCode, " ", string(body))
}

// wire passes TCP connections on and remembers what went over it.
type wire struct {
	address  string
	listener net.Listener

	mu    sync.Mutex
	seen  bytes.Buffer
	conns []net.Conn
}

// newWire listens on a host of its own and connects from an address.
func newWire(t testing.TB, host string, from netip.Addr, to string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{address: l.Addr().String(), listener: l}
	t.Cleanup(w.cut)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			d := net.Dialer{}
			if from.IsValid() {
				d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
			}
			up, err := d.Dial("tcp", to)
			if err != nil {
				c.Close()
				continue
			}
			w.mu.Lock()
			w.conns = append(w.conns, c, up)
			w.mu.Unlock()
			go w.pass(up, c)
			go w.pass(c, up)
		}
	}()
	return w
}

func (w *wire) pass(dst, src net.Conn) {
	defer dst.Close()
	defer src.Close()
	_, _ = io.Copy(io.MultiWriter(dst, w), src)
}

func (w *wire) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen.Write(b)
}

func (w *wire) saw(text string) (found bool, total int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return bytes.Contains(w.seen.Bytes(), []byte(text)), w.seen.Len()
}

// cut ends the wire and all that passes it.
func (w *wire) cut() {
	w.listener.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		c.Close()
	}
}

// listenAt starts a TCP server in a pod.
func listenAt(t testing.TB, host string, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
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
				serve(c)
			}()
		}
	}()
	return l.Addr().String()
}

// webServer is an HTTP server, of all versions, in a pod.
func webServer(t testing.TB, host string, h http.HandlerFunc) string {
	t.Helper()
	address, _ := mortal(t, host, h)
	return address
}

// mortal is a webServer, and what ends it and all of its connections.
func mortal(t testing.TB, host string, h http.HandlerFunc) (address string, end func(h2 bool)) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	var open sync.Map
	s := &http.Server{Handler: h, Protocols: new(http.Protocols), ReadHeaderTimeout: time.Minute}
	s.ConnState = func(c net.Conn, state http.ConnState) {
		if open.Store(c, nil); state == http.StateClosed {
			open.Delete(c)
		}
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = s.Serve(l) }() // until Close
	end = func(h2 bool) {
		l.Close()
		open.Range(func(c, _ any) bool {
			_ = c.(*net.TCPConn).CloseWrite()
			return true
		})
		// Who speaks HTTP/2 closes it on reading that, who speaks HTTP/1 looks whether it came. What he sends before is lost,
		// and nobody can help it.
		eventually(t, func() (err error) {
			open.Range(func(c, _ any) bool {
				if h2 || !heard(t, c.(*net.TCPConn)) {
					err = fmt.Errorf("%s is open", c.(net.Conn).RemoteAddr())
				}
				return err == nil
			})
			return err
		})
		s.Close()
	}
	t.Cleanup(func() { s.Close() })
	return l.Addr().String(), end
}
