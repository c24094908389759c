package controller

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/tulle-mesh/tulle/internal/bypass"
	"github.com/tulle-mesh/tulle/internal/shadow"
)

const (
	// probesAtOnce is how many connections are tried at the same time.
	probesAtOnce = 64
	// probesPerPass is how many targets are tried before what was found is told. The rest is tried in the next pass.
	probesPerPass = 512
	// openPort of a proxy is for everybody, closedPort for its own node's kubelet: the chart's NetworkPolicies say so.
	openPort, closedPort = 15053, 15021
	// chartPolicy is the one that does.
	chartPolicy = "tulle-proxy"
)

// aims are what the prober is to try. They are immutable.
type aims struct {
	nodes   []string                  // with pods of protected workloads
	proxies map[string][]shadow.Proxy // ready ones, by node
	closed  bool                      // the chart's NetworkPolicies are there
	targets []bypass.Target           // of workloads that no NetworkPolicy leaves open
}

// aim tells the prober what to try.
func (g *guard) aim(r *round, workloads []bypass.Workload) {
	a := &aims{nodes: nodesOf(workloads), proxies: map[string][]shadow.Proxy{}}
	for _, p := range r.snapshot.Proxies {
		if p.Ready {
			a.proxies[p.Node] = append(a.proxies[p.Node], p)
		}
	}
	a.closed = slices.ContainsFunc(r.snapshot.Policies, func(p *networkingv1.NetworkPolicy) bool {
		return p.Namespace == g.Bypass.Namespace && p.Name == chartPolicy
	})
	for i := range workloads {
		if len(workloads[i].Open) == 0 {
			a.targets = append(a.targets, workloads[i].Targets...)
		}
	}
	was := g.aims.Swap(a)
	if was == nil || !slices.Equal(was.nodes, a.nodes) || !slices.Equal(was.targets, a.targets) {
		signal(g.aimed)
	}
}

// probe tries the way around, again and again as long as there is a protected workload. This pod is none of the proxies:
// what it reaches, everybody may.
//
// That nothing answers would mean little by itself: perhaps nothing listens. So it is tried first, on every node, whether
// NetworkPolicies hold there at all, with a pod that is known to listen: of a ready proxy, the port of the mesh DNS must be
// reached and the port of its health must not.
func (g *guard) probe(ctx context.Context) {
	again := time.NewTicker(g.ProbeEvery)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		case <-g.aimed:
		}
		a := g.aims.Load()
		if a == nil || len(a.nodes) == 0 {
			if g.evidence.Swap(&bypass.Evidence{}) == nil {
				signal(g.toGuard)
			}
			continue
		}
		g.evidence.Store(g.pass(ctx, a, g.evidence.Load()))
		signal(g.toGuard)
		if !wait(ctx, pace) {
			return
		}
	}
}

// pass tries all nodes and the targets that were not tried yet, or longest ago.
func (g *guard) pass(ctx context.Context, a *aims, was *bypass.Evidence) *bypass.Evidence {
	out := &bypass.Evidence{Engines: map[string]string{}, Tried: map[netip.AddrPort]bool{}, Reached: map[netip.AddrPort]bool{}}
	engines := make([]string, len(a.nodes))
	atOnce(len(a.nodes), func(i int) { engines[i] = g.engine(ctx, a, a.nodes[i]) })
	for i, n := range a.nodes {
		out.Engines[n] = engines[i]
	}
	var first, later []bypass.Target
	for _, t := range a.targets {
		switch {
		case out.Engines[t.Node] != "": // nothing is gained by knocking at an application's door
		case was == nil || !was.Tried[t.Address]:
			first = append(first, t)
		default:
			out.Tried[t.Address], out.Reached[t.Address] = true, was.Reached[t.Address]
			later = append(later, t)
		}
	}
	// All are tried sooner or later: the first of those that were tried before moves on from pass to pass.
	if n := len(later); n > 0 {
		g.passes++
		from := g.passes * probesPerPass % n
		later = slices.Concat(later[from:], later[:from])
	}
	now := slices.Concat(first, later)
	now = now[:min(len(now), probesPerPass)]
	reached := make([]bool, len(now))
	atOnce(len(now), func(i int) { reached[i] = g.Dial(ctx, now[i].Address) })
	for i, t := range now {
		out.Tried[t.Address], out.Reached[t.Address] = true, reached[i]
	}
	return out
}

// engine says why NetworkPolicies do not hold on a node, or why that is not known; empty if they do.
func (g *guard) engine(ctx context.Context, a *aims, node string) string {
	proxies := a.proxies[node]
	switch {
	case !a.closed:
		return "nobody knows whether NetworkPolicies are enforced: networkPolicy.enabled is off, so there are none to try that with"
	case len(proxies) == 0:
		return fmt.Sprintf("%s has no ready proxy to try NetworkPolicies with", node)
	}
	for _, p := range proxies {
		for _, addr := range p.Addresses {
			closed := g.Dial(ctx, netip.AddrPortFrom(addr, closedPort))
			open := g.Dial(ctx, netip.AddrPortFrom(addr, openPort))
			switch {
			case closed:
				return fmt.Sprintf("NetworkPolicies are not enforced on %s", node)
			case !open:
				return fmt.Sprintf("the proxy of %s (%s) can't be reached to try NetworkPolicies", node, addr)
			}
		}
	}
	return ""
}

// atOnce calls f with 0 to n-1, several at once.
func atOnce(n int, f func(i int)) {
	var g sync.WaitGroup
	slots := make(chan struct{}, probesAtOnce)
	for i := range n {
		slots <- struct{}{}
		g.Go(func() {
			defer func() { <-slots }()
			f(i)
		})
	}
	g.Wait()
}
