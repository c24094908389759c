package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/access"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// Apply takes an update into use and returns what could not be used. A resource that makes no sense stays what it was;
// of a service with a port that can't be opened the rest is in use, and the port is tried again now and then.
func (p *Proxy) Apply(u configv1.Update) []configv1.Refusal {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.newChange()
	c.setNodes(u)        // before anything goes there
	c.setPolicies(u.Set) // before the endpoints that they protect
	for _, r := range u.Set {
		if err := c.set(r); err != nil {
			c.refused = append(c.refused, configv1.Refusal{Key: r.Key, Version: r.Version, Reason: err.Error()})
		}
	}
	for _, k := range u.Removed {
		c.remove(k)
	}
	for _, b := range p.settle(context.Background()) {
		c.refuse(u, b)
	}
	c.commit()
	c.forgetCallers()
	p.gate.Remove(c.unprotected) // after the endpoints that they protected
	p.gate.Recheck()
	return c.refused
}

// retry tries again to open the ports that could not be opened.
func (p *Proxy) retry(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.listeners.failed) == 0 || p.draining {
		return
	}
	for s := range p.listeners.failed {
		p.listeners.dirty[s] = true
	}
	before := len(p.listeners.failed)
	p.settle(ctx)
	if opened := before - len(p.listeners.failed); opened > 0 {
		p.config.Log.InfoContext(ctx, "ports opened that were busy", "count", opened)
		p.newChange().commit()
	}
}

// change is the next state in the making. It belongs to the holder of the Proxy's mutex.
type change struct {
	p        *Proxy
	old      *state
	next     state
	table    route.Table
	refused  []configv1.Refusal
	copied   map[string]bool  // which maps of next are its own
	released []*route.Service // out of use once next is in use
	removed  []string         // Endpoints that nobody needs once next is in use
	settled  []string         // services that are gone

	unprotected []string // policies that are gone
	newCallers  bool     // who runs on this node may have changed
}

func (p *Proxy) newChange() *change {
	old := p.now.Load()
	return &change{p: p, old: old, next: *old, table: *old.table, copied: map[string]bool{}}
}

// own makes a map of the next state its own before the first write to it.
func own[K comparable, V any](c *change, name string, m *map[K]V) map[K]V {
	if !c.copied[name] {
		c.copied[name] = true
		*m = maps.Clone(*m)
	}
	return *m
}

// setPolicies takes policies into use at once. One that can't be used leaves what was in use; if there was none,
// everything is denied.
func (c *change) setPolicies(set []configv1.Resource) {
	policies := map[string]*access.Workload{}
	for _, r := range set {
		m, ok := r.Message.(*configv1.Policy)
		if !ok {
			continue
		}
		w, err := c.p.gate.Compile(r.Name, m)
		if err != nil {
			c.refused = append(c.refused, configv1.Refusal{Key: r.Key, Version: r.Version, Reason: fmt.Sprintf("policy: %v", err)})
		}
		policies[r.Name] = w
	}
	c.p.gate.Add(policies)
}

func (c *change) set(r configv1.Resource) error {
	switch m := r.Message.(type) {
	case *configv1.Policy: // in use already
	case *configv1.Mesh:
		return c.setMesh(m)
	case *configv1.Endpoints:
		if err := c.p.set.Update(r.Name, m); err != nil {
			return fmt.Errorf("endpoints: %w", err)
		}
		own(c, "endpoints", &c.next.endpoints)[r.Name] = m
	case *configv1.Service:
		return c.setService(r.Name, m)
	case *configv1.Proxy:
		return c.setProxy(m)
	case *configv1.NodeProxies: // in use already
	case *configv1.TrustBundle: // for those who check certificates
	default:
		return fmt.Errorf("resources of type %q are unknown", r.Type)
	}
	return nil
}

func (c *change) setProxy(m *configv1.Proxy) error {
	ranges, err := route.PodRanges(m.GetPodRanges())
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	c.next.proxy, c.newCallers = m, true
	c.table.Callers, c.table.PodRanges = route.Callers(m.GetCallers()), ranges
	for _, caller := range c.table.Callers {
		caller.Share = c.p.share.Account(caller.Namespace)
	}
	c.p.set.Locate(upstream.Place{Node: m.GetNode(), Zone: m.GetZone()})
	c.table.NodeAddresses = route.NodeAddresses(m.GetNodeAddresses())
	return nil
}

func (c *change) setMesh(m *configv1.Mesh) error {
	seen := map[uint32]bool{}
	for _, l := range m.GetSharedListeners() {
		if l.GetPort() == 0 || l.GetPort() > 65535 || l.GetTargetPort() == 0 || l.GetTargetPort() > 65535 || seen[l.GetTargetPort()] {
			return fmt.Errorf("shared listener %d, target port %d: not a port number, or twice", l.GetPort(), l.GetTargetPort())
		}
		seen[l.GetTargetPort()] = true
	}
	c.p.listeners.replace(sharedClaims(c.next.mesh), sharedClaims(m))
	c.next.mesh = m
	c.table.Zones = route.Zones(m.GetZones())
	c.table.TrustDomain = cmp.Or(m.GetTrustDomain(), m.GetClusterDomain(), "cluster.local")
	c.table.ReasonDetail = m.GetReasonDetail()
	return nil
}

func (c *change) setService(name string, m *configv1.Service) error {
	if bind := m.GetBindAddress(); bind != "" {
		if _, err := netip.ParseAddr(bind); err != nil {
			return fmt.Errorf("bind address: %w", err)
		}
	}
	old := c.table.Services[name]
	compiled, err := route.Compile(name, m, old, c.p.set)
	if err != nil {
		return fmt.Errorf("service: %w", err)
	}
	if old != nil {
		c.released = append(c.released, old)
	}
	c.p.listeners.replace(serviceClaims(name, c.next.services[name]), serviceClaims(name, m))
	own(c, "table", &c.table.Services)[name] = compiled
	own(c, "services", &c.next.services)[name] = m
	c.p.meter.Known(compiled.Namespace + "/" + compiled.Short)
	return nil
}

func (c *change) remove(k configv1.Key) {
	switch k.Type {
	case configv1.MeshType:
		c.p.listeners.replace(sharedClaims(c.next.mesh), nil)
		c.next.mesh = nil
		c.table.Zones = nil
	case configv1.EndpointsType:
		delete(own(c, "endpoints", &c.next.endpoints), k.Name)
		c.removed = append(c.removed, k.Name)
	case configv1.ServiceType:
		if old := c.table.Services[k.Name]; old != nil {
			c.released = append(c.released, old)
			c.settled = append(c.settled, k.Name)
			c.p.listeners.replace(serviceClaims(k.Name, c.next.services[k.Name]), nil)
			delete(own(c, "table", &c.table.Services), k.Name)
			delete(own(c, "services", &c.next.services), k.Name)
		}
	case configv1.PolicyType:
		c.unprotected = append(c.unprotected, k.Name)
	case configv1.ProxyType:
		c.next.proxy, c.newCallers = nil, true
		c.table.Callers = nil
	}
}

// refuse reports a port that could not be opened on the resource of the update that wants it.
func (c *change) refuse(u configv1.Update, b busy) {
	if errors.Is(b.err, errDraining) {
		return // no fault of the port's
	}
	c.p.config.Log.Warn("port not open", "service", b.service, "port", b.port, "target_port", b.target, "err", b.err)
	for _, r := range u.Set {
		if r.Type == configv1.ServiceType && r.Name == b.service || r.Type == configv1.MeshType && b.service == "" {
			c.refused = append(c.refused, configv1.Refusal{
				Key: r.Key, Version: r.Version, BusyPort: b.target, BusyUDP: b.udp,
				Reason: fmt.Sprintf("port %d: listen on %d: %v", b.port, b.target, b.err),
			})
		}
	}
}

// commit puts the next state into use, and what it no longer needs out of use.
func (c *change) commit() {
	l := &c.p.listeners
	for _, s := range l.touched {
		open := own(c, "open", &c.next.open)
		if l.open[s] == nil {
			delete(open, s)
		} else {
			open[s] = l.wanted[s][0]
		}
	}
	l.touched = nil
	c.p.meter.Listeners("tcp", l.tcp)
	c.p.meter.Listeners("udp", l.udp)
	// Copies, as a pointer into c would keep it, its old state, and so all states before.
	next, table := c.next, c.table
	next.table, next.changed = &table, make(chan struct{})
	c.p.now.Store(&next)
	close(c.old.changed)
	c.p.start()
	for _, s := range c.released {
		s.Release(c.p.set)
	}
	for _, name := range c.removed {
		c.p.set.Remove(name)
	}
	for _, name := range c.settled {
		c.p.meter.Forget(name)
	}
}

// claimed is a socket and who wants it.
type claimed struct {
	socket
	claim
}

func sharedClaims(m *configv1.Mesh) []claimed {
	var out []claimed
	for _, l := range m.GetSharedListeners() {
		out = append(out, claimed{
			socketOf("", l.GetTargetPort(), configv1.Protocol_PROTOCOL_HTTP),
			claim{port: l.GetPort(), target: l.GetTargetPort()},
		})
	}
	return out
}

func serviceClaims(name string, m *configv1.Service) []claimed {
	var out []claimed
	for _, p := range m.GetPorts() {
		if p.GetTargetPort() == 0 {
			continue
		}
		s := socketOf(m.GetBindAddress(), p.GetTargetPort(), p.GetProtocol())
		out = append(out, claimed{s, claim{name, p.GetPort(), p.GetTargetPort(), s.network == "udp"}})
	}
	return out
}

// replace changes the claims of one resource.
func (l *listeners) replace(before, after []claimed) {
	still := map[claimed]bool{}
	for _, a := range after {
		still[a] = true
	}
	for _, b := range before {
		if !still[b] {
			l.unwant(b.socket, b.claim)
		}
	}
	for _, a := range after {
		l.want(a.socket, a.claim)
	}
}
