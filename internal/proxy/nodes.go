package proxy

import (
	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// setNodes takes into use at once how the pods of other nodes are reached.
func (c *change) setNodes(u configv1.Update) {
	if c.p.config.Upstream.Tunnels == nil {
		return // this proxy has no identities, whatever others have
	}
	self, news := c.next.proxy.GetNode(), false
	for _, r := range u.Set {
		switch m := r.Message.(type) {
		case *configv1.NodeProxies:
			own(c, "nodes", &c.next.nodes)[r.Name] = through(m)
			news = true
		case *configv1.Proxy:
			news = news || m.GetNode() != self
			self = m.GetNode()
		}
	}
	for _, k := range u.Removed {
		if k.Type == configv1.NodeProxiesType {
			delete(own(c, "nodes", &c.next.nodes), k.Name)
			news = true
		}
	}
	if news {
		c.p.set.Reroute(reach(c.next.nodes, self))
	}
}

// reach says how the pods of a node are reached, in a mesh with identities: those of this node as they are, those of others
// through the proxy there. As long as this node isn't known, none is.
func reach(nodes map[string]upstream.Reach, self string) func(string) upstream.Reach {
	if len(nodes) == 0 {
		return func(string) upstream.Reach { return upstream.Direct }
	}
	return func(node string) upstream.Reach {
		known, ok := nodes[node]
		switch {
		case node == self && self != "":
			return upstream.Direct
		case !ok || self == "":
			return upstream.NoProxy
		}
		return known
	}
}

// through is how the pods of a node are reached from another one.
func through(m *configv1.NodeProxies) upstream.Reach {
	switch {
	case len(m.GetReady()) > 0:
		return upstream.Tunnel
	case m.GetPlain():
		return upstream.Plain
	}
	return upstream.NoProxy
}

// forgetCallers closes what was kept for identities that have left the node.
func (c *change) forgetCallers() {
	if c.p.config.Upstream.Tunnels == nil || !c.newCallers {
		return
	}
	gone := accounts(c.old.table)
	for a := range accounts(&c.table) {
		delete(gone, a)
	}
	if len(gone) > 0 {
		c.p.set.Forget(func(a upstream.Caller) bool { return gone[a] })
	}
}

// Forget closes what was kept for callers whose identity has ended while their pods run on. Nobody, whom the proxies' own
// identity stands for, is the caller without a name.
func (p *Proxy) Forget(gone func(namespace, account string) bool) {
	p.set.Forget(func(c upstream.Caller) bool { return gone(c.Namespace, c.ServiceAccount) })
}

func accounts(t *route.Table) map[upstream.Caller]bool {
	out := make(map[upstream.Caller]bool, len(t.Callers))
	for _, c := range t.Callers {
		out[upstream.Caller{Namespace: c.Namespace, ServiceAccount: c.ServiceAccount}] = true
	}
	return out
}
