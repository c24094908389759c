//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/tunnel"
	"github.com/tulle-mesh/tulle/internal/push"
)

// ServiceAccounts in the mesh's namespace: the proxies' own identity, and that of who certifies.
const (
	proxyAccount  = "tulle-proxy"
	signerAccount = "tulle-identity"
)

// identities is what the worker knows of who is who: the SVIDs of its node's identities, the trust bundle, and where
// other nodes' proxies are. A nil *identities knows nobody.
type identities struct {
	source identity.Source
	keeper *identity.Keeper      // nil with SPIRE
	spire  *identity.WorkloadAPI // nil without
	signer *push.Signer          // nil with SPIRE
	log    *slog.Logger
	port   uint16
	own    [2]string // namespace and name of the proxies' account

	client   *tunnel.Client
	tunnels  *proxy.Tunnels
	server   *tunnel.Server
	listener net.Listener // set before anything is served

	mu    sync.Mutex           // of what Apply is told
	td    identity.TrustDomain // the controllers'
	self  *configv1.Proxy
	nodes map[string]*configv1.NodeProxies

	now atomic.Pointer[neighbours] // never nil
}

// neighbours are the proxies that exist. It is immutable.
type neighbours struct {
	ready map[string][]netip.AddrPort // by node
	node  map[netip.Addr]string
}

// newIdentities makes the parts that the data plane needs; serve makes those that need it.
func (w *worker) newIdentities() (*identities, error) {
	if w.identity == "off" {
		return nil, nil
	}
	_, text, err := net.SplitHostPort(w.tunnelAddress)
	if err != nil {
		return nil, fmt.Errorf("--tunnel-address: %w", err)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("--tunnel-address %q: %w", w.tunnelAddress, err)
	}
	i := &identities{log: w.log, port: uint16(port), own: [2]string{w.podNamespace, proxyAccount}, nodes: map[string]*configv1.NodeProxies{}}
	i.now.Store(&neighbours{})
	if w.identity == "spire" {
		i.spire = identity.NewWorkloadAPI(identity.WorkloadAPIConfig{
			Addr: w.spireSocket, Log: w.log, Ended: func(gone map[identity.ID]bool) { i.forget(w.proxy, gone) },
		})
		i.source = i.spire
	} else {
		i.signer = push.NewSigner(push.SignerConfig{
			Addr: w.identityAddress, TokenFile: w.identityTokenFile, TLS: func() (*tls.Config, error) { return i.authority(w.trustFile) },
		})
		i.keeper = identity.NewKeeper(identity.KeeperConfig{Signer: asks{i.signer}, Log: w.log, Retry: 250 * time.Millisecond})
		i.source = i.keeper
	}
	w.registerSVIDs(i.status)
	i.client = tunnel.NewClient(tunnel.ClientConfig{
		Source: i.source, Self: i.who, Proxies: i.proxies, AnyNode: i.spire != nil, Log: w.log,
	})
	i.tunnels = &proxy.Tunnels{Client: i.client, Source: i.source}
	w.registry.MustRegister(i.client, i.tunnels)
	return i, nil
}

// authority says whom to take for the mesh's own CA. Its roots are those that the pod has mounted, which only the CA writes,
// and not those of the bundle: who could make the controllers name others could have himself taken for the CA, and would be
// shown the token by which this node's identities are had.
func (i *identities) authority(file string) (*tls.Config, error) {
	b := i.source.Bundle()
	if b == nil {
		return nil, errors.New("the trust domain isn't known yet")
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read roots: %w", err)
	}
	roots, err := identity.ParseRoots(b.TrustDomain(), pem)
	if err != nil {
		return nil, err
	}
	id, err := identity.Account(b.TrustDomain(), i.own[0], signerAccount)
	if err != nil {
		return nil, err
	}
	return identity.Expect(roots, id), nil
}

// asks is the CA as the keeper knows it.
type asks struct{ *push.Signer }

// Sign implements identity.Signer.
func (a asks) Sign(ctx context.Context, namespace, account string, csr []byte) ([][]byte, error) {
	chain, err := a.Signer.Sign(ctx, namespace, account, csr)
	if errors.Is(err, push.ErrDenied) {
		err = fmt.Errorf("%w: %w", identity.ErrDenied, err)
	}
	return chain, err
}

// serve makes what serves tunnels.
func (i *identities) serve(w *worker) {
	if i == nil {
		return
	}
	i.server = tunnel.NewServer(tunnel.ServerConfig{
		Source: i.source, Self: i.who, Peer: i.peer, AnyNode: i.spire != nil,
		Check: w.proxy.CheckTunnel, Handler: w.proxy.ServeTunnel, Log: w.log,
	})
	w.registry.MustRegister(i.server)
}

// who is the proxies' own identity; zero while the trust domain isn't known.
func (i *identities) who() identity.ID {
	b := i.source.Bundle()
	if b == nil {
		return identity.ID{}
	}
	id, err := identity.Account(b.TrustDomain(), i.own[0], i.own[1])
	if err != nil {
		return identity.ID{}
	}
	return id
}

func (i *identities) proxies(node string) []netip.AddrPort { return i.now.Load().ready[node] }

func (i *identities) peer(addr netip.Addr) (string, bool) {
	node, ok := i.now.Load().node[addr]
	return node, ok
}

// Apply implements push.Applier: it takes from the config what identities depend on.
func (i *identities) Apply(u configv1.Update) []configv1.Refusal {
	i.mu.Lock()
	defer i.mu.Unlock()
	var refused []configv1.Refusal
	own, others := false, false // most updates are about neither
	for _, r := range u.Set {
		var err error
		switch m := r.Message.(type) {
		case *configv1.TrustBundle:
			err = i.trust(m)
			own = true
		case *configv1.NodeProxies:
			i.nodes[r.Name] = m
			others = true
		case *configv1.Proxy:
			i.self = m
			own = true
		}
		if err != nil {
			refused = append(refused, configv1.Refusal{Key: r.Key, Version: r.Version, Reason: err.Error()})
		}
	}
	for _, k := range u.Removed {
		if k.Type == configv1.NodeProxiesType {
			delete(i.nodes, k.Name)
			others = true
		}
	}
	// A controller that says nothing of proxies is of a version, or has settings, without identities: others may have told
	// other nodes' proxies to call here, and these are who they were.
	if others && len(i.nodes) > 0 {
		i.now.Store(i.neighbours())
	}
	if own && i.keeper != nil && !i.td.IsZero() {
		i.keeper.Want(ids(i.td, i.accounts())...)
	}
	return refused
}

// trust takes a bundle into use. One that is taken away stays: it would make everybody a stranger.
func (i *identities) trust(m *configv1.TrustBundle) error {
	b, err := identity.ParseBundle(m.GetTrustDomain(), m.GetRoots())
	if err != nil || i.keeper == nil {
		return err
	}
	i.td = b.TrustDomain()
	i.keeper.Trust(b)
	return nil
}

func (i *identities) neighbours() *neighbours {
	n := &neighbours{ready: map[string][]netip.AddrPort{}, node: map[netip.Addr]string{}}
	for node, m := range i.nodes {
		for _, text := range m.GetReady() {
			if a, err := netip.ParseAddr(text); err == nil {
				n.ready[node] = append(n.ready[node], netip.AddrPortFrom(a, i.port))
			}
		}
		for _, text := range m.GetAll() {
			if a, err := netip.ParseAddr(text); err == nil {
				n.node[a.Unmap()] = node
			}
		}
	}
	return n
}

// accounts are whose SVIDs are needed, by namespace and name: everybody's on this node, and the proxy's own. The mutex is
// held.
func (i *identities) accounts() map[[2]string]bool {
	out := map[[2]string]bool{i.own: true}
	for _, c := range i.self.GetCallers() {
		out[[2]string{c.GetNamespace(), c.GetServiceAccount()}] = true
	}
	return out
}

func ids(td identity.TrustDomain, accounts map[[2]string]bool) []identity.ID {
	out := make([]identity.ID, 0, len(accounts))
	for a := range accounts {
		if id, err := identity.Account(td, a[0], a[1]); err == nil {
			out = append(out, id)
		}
	}
	return out
}

// forget lets go of what was made for identities that have ended while their pods run on, as SPIRE may say.
func (i *identities) forget(p *proxy.Proxy, gone map[identity.ID]bool) {
	accounts := map[[2]string]bool{}
	for id := range gone {
		if namespace, account, ok := identity.SplitAccount(id); ok {
			accounts[[2]string{namespace, account}] = true
		}
	}
	accounts[[2]string{}] = accounts[i.own] // who stands for nobody
	p.Forget(func(namespace, account string) bool { return accounts[[2]string{namespace, account}] })
}

// status is how this node's SVIDs are.
func (i *identities) status(now time.Time) identity.KeeperStatus {
	if i.keeper != nil {
		return i.keeper.Status(now)
	}
	i.mu.Lock()
	accounts := i.accounts()
	i.mu.Unlock()
	b := i.spire.Bundle()
	if b == nil {
		s := i.spire.Status(now, nil)
		s.Wanted = len(accounts)
		return s
	}
	return i.spire.Status(now, ids(b.TrustDomain(), accounts))
}

// listen takes the tunnels' socket and returns what serves it.
func (i *identities) listen(ctx context.Context, w *worker) (func(context.Context) error, error) {
	if i == nil {
		return func(context.Context) error { return nil }, nil
	}
	l, err := w.held.Listen(ctx, w.tunnelAddress)
	if err != nil {
		return nil, fmt.Errorf("serve tunnels: %w", err)
	}
	i.listener = l
	return func(ctx context.Context) error {
		defer context.AfterFunc(ctx, func() {
			l.Close()
			i.server.Cut()
			i.client.Close()
		})()
		return i.server.Serve(l)
	}, nil
}

// awaitOwn waits until there is a certificate to show to other nodes' proxies, which take a proxy that is ready for one that
// serves tunnels. During an upgrade the controllers, or who certifies, may be there a moment later than a new proxy.
func (i *identities) awaitOwn(ctx context.Context) {
	if i == nil {
		return
	}
	const every = 20 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	for !i.holdsOwn() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			if ctx.Err() == context.DeadlineExceeded {
				i.log.Warn("ready without a certificate of its own: other nodes' proxies can't call here")
			}
			return
		}
	}
}

func (i *identities) holdsOwn() bool {
	self := i.who()
	if self.IsZero() {
		return false
	}
	now, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := i.source.SVID(now, self)
	return err == nil
}

// drain stops taking tunnels and waits for those that there are.
func (i *identities) drain(ctx context.Context, w *worker) {
	if i == nil {
		return
	}
	i.listener.Close()
	w.held.Release("tcp", w.tunnelAddress)
	if err := i.server.Drain(ctx); err != nil {
		w.log.Warn("some tunnels were cut", "err", err)
	}
}

// run keeps SVIDs.
func (i *identities) run(ctx context.Context) error {
	switch {
	case i == nil:
		return nil
	case i.spire != nil:
		return i.spire.Run(ctx)
	}
	defer i.signer.Close()
	return i.keeper.Run(ctx)
}

// appliers are who takes config.
func (w *worker) appliers() push.Applier {
	if w.identities == nil {
		return w.proxy
	}
	return both{w.identities, w.proxy}
}

// both gives config to two, the first first.
type both [2]push.Applier

func (b both) Apply(u configv1.Update) []configv1.Refusal {
	return append(b[0].Apply(u), b[1].Apply(u)...)
}

// registerSVIDs shows how SVIDs are, early enough to do something before they end.
func (w *worker) registerSVIDs(status func(time.Time) identity.KeeperStatus) {
	for _, g := range []struct {
		name, help string
		value      func(identity.KeeperStatus) float64
	}{
		{"tulle_proxy_identities", "Identities that run on this node.", func(s identity.KeeperStatus) float64 { return float64(s.Wanted) }},
		{"tulle_proxy_svids", "Identities of this node that have a valid SVID.", func(s identity.KeeperStatus) float64 { return float64(s.Held) }},
		{"tulle_proxy_svids_overdue", "SVIDs that should have been renewed by now.", func(s identity.KeeperStatus) float64 { return float64(s.Overdue) }},
		{"tulle_proxy_svid_expiry_timestamp_seconds", "When the first SVID ends; 0 while there is none.", func(s identity.KeeperStatus) float64 { return unix(s.FirstEnd) }},
	} {
		w.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: g.name, Help: g.help},
			func() float64 { return g.value(status(time.Now())) }))
	}
	w.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "tulle_proxy_svid_failures_total", Help: "Requests for SVIDs that failed; with SPIRE, how often its agent refused or did not answer.",
	}, func() float64 { return float64(status(time.Now()).Failed) }))
}
