//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/tunnel"
)

const nearNode, farNode = "node-a", "node-b"

// servePair is a call from one node to another without TLS: two proxies in one process, so that its CPU is that of both.
// The second one's service is the first one's endpoint.
func servePair(ctx context.Context, s spec) error {
	var told bytes.Buffer
	far, err := newTulle(s, client, &told, nil)
	if err != nil {
		return err
	}
	s.Up = strings.TrimSpace(told.String())
	near, err := newTulle(s, client, os.Stdout, nil)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return far.Run(ctx) })
	g.Go(func() error { return near.Run(ctx) })
	return g.Wait()
}

// certifier implements identity.Signer for a node.
type certifier struct {
	*identity.Authority

	node string
}

func (c certifier) Sign(_ context.Context, namespace, account string, csr []byte) ([][]byte, error) {
	return c.Authority.Sign(csr, namespace, account, c.node, time.Now())
}

// serveTunnelled is the same by mutual TLS, as between the nodes of a cluster.
func serveTunnelled(ctx context.Context, s spec) error {
	td, err := identity.ParseTrustDomain("cluster.local")
	if err != nil {
		return err
	}
	root, err := identity.NewRoot(td, time.Now(), time.Hour)
	if err != nil {
		return err
	}
	a := identity.NewAuthority(identity.AuthorityConfig{TrustDomain: td})
	a.Update(identity.Record(nil).Next(root.Roots(), time.Now(), time.Hour), root)
	g, ctx := errgroup.WithContext(ctx)
	here, self, err := keep(ctx, g, a, nearNode, client.GetServiceAccount())
	if err != nil {
		return err
	}
	there, _, err := keep(ctx, g, a, farNode, backend.GetServiceAccount())
	if err != nil {
		return err
	}
	far, err := newTulle(s, backend, io.Discard, nil)
	if err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	at, err := netip.ParseAddrPort(l.Addr().String())
	if err != nil {
		return err
	}
	who := func() identity.ID { return self }
	server := tunnel.NewServer(tunnel.ServerConfig{
		Source: there, Self: who, Check: far.CheckTunnel, Handler: far.ServeTunnel,
		Peer: func(netip.Addr) (string, bool) { return nearNode, true },
	})
	caller := tunnel.NewClient(tunnel.ClientConfig{
		Source: here, Self: who, Proxies: func(string) []netip.AddrPort { return []netip.AddrPort{at} },
	})
	defer caller.Close()
	s.Node = farNode
	near, err := newTulle(s, client, os.Stdout, &proxy.Tunnels{Client: caller, Source: here})
	if err != nil {
		return err
	}
	g.Go(func() error { return far.Run(ctx) })
	g.Go(func() error { return near.Run(ctx) })
	g.Go(func() error { return server.Serve(l) })
	return g.Wait()
}

// keep gets and renews the SVIDs of a node: the proxies' own, and that of the one account that runs there.
func keep(ctx context.Context, g *errgroup.Group, a *identity.Authority, node, account string) (*identity.Keeper, identity.ID, error) {
	td := a.Config().TrustDomain
	self, err := identity.Account(td, "tulle-system", "tulle-proxy")
	other, wrong := identity.Account(td, "shop", account)
	if err := errors.Join(err, wrong); err != nil {
		return nil, self, err
	}
	k := identity.NewKeeper(identity.KeeperConfig{Signer: certifier{a, node}})
	k.Trust(a.Bundle())
	k.Want(self, other)
	g.Go(func() error { return k.Run(ctx) })
	for _, id := range []identity.ID{self, other} {
		if _, err := k.SVID(ctx, id); err != nil {
			return nil, self, err
		}
	}
	return k, self, nil
}
