package upstream

import (
	"fmt"
	"net/netip"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

// Update replaces the endpoints of the service by name ("namespace/name"). An error names what is wrong with e and
// leaves all as it was.
func (s *Set) Update(name string, e *configv1.Endpoints) error {
	parsed, err := parse(name, e)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replace(name, parsed)
	return nil
}

// Remove forgets the endpoints of the service by name.
func (s *Set) Remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replace(name, nil)
}

// Close closes all pooled connections that are idle.
func (s *Set) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.endpoints {
		e.retired.Store(true)
		e.closeIdle()
	}
}

type member struct {
	identity
	draining, protected bool
	place               Place
}

type port struct {
	key     Key
	members []member
	prefer  configv1.Prefer
}

func parse(name string, e *configv1.Endpoints) ([]port, error) {
	var ports []port
	seen := map[Key]bool{}
	for _, p := range e.GetPorts() {
		key := Key{name, p.GetPort(), p.GetUdp()}
		if key.Port == 0 || key.Port > 65535 || seen[key] {
			return nil, fmt.Errorf("port %d: not a port number, or twice", key.Port)
		}
		seen[key] = true
		list := port{key: key, prefer: e.GetPrefer()}
		unique := map[identity]bool{}
		for _, ep := range p.GetEndpoints() {
			ip, err := netip.ParseAddr(ep.GetAddress())
			if err != nil {
				return nil, fmt.Errorf("port %d: %w", key.Port, err)
			}
			if ep.GetPort() == 0 || ep.GetPort() > 65535 {
				return nil, fmt.Errorf("port %d: endpoint %s has port %d", key.Port, ip, ep.GetPort())
			}
			id := identity{netip.AddrPortFrom(ip.Unmap(), uint16(ep.GetPort())), ep.GetPod(), ep.GetWorkload(), ep.GetNode(), ep.GetHostNetwork(), key.UDP}
			if !unique[id] {
				unique[id] = true
				list.members = append(list.members, member{id, ep.GetDraining(), ep.GetProtected(), Place{ep.GetNode(), ep.GetZone()}})
			}
		}
		ports = append(ports, list)
	}
	return ports, nil
}

// replace first takes what is new and then drops what was, so that endpoints that stay keep their connections.
func (s *Set) replace(name string, ports []port) {
	before := s.services[name]
	keys := make([]Key, 0, len(ports))
	for _, p := range ports {
		g := s.take(p.key)
		s.assign(g, s.resolve(p, len(g.members.Load().ready) > 0))
		keys = append(keys, p.key)
	}
	still := map[Key]bool{}
	for _, k := range keys {
		still[k] = true
	}
	for _, k := range before {
		if !still[k] {
			s.assign(s.groups[k], &members{})
		}
		s.drop(k)
	}
	s.services[name] = keys
	if len(keys) == 0 {
		delete(s.services, name)
	}
}

// resolve finds or makes the endpoints of a port. What is new joins others, if there are any.
func (s *Set) resolve(p port, others bool) *members {
	m := &members{prefer: p.prefer}
	for _, item := range p.members {
		e, ok := s.endpoints[item.identity]
		if !ok {
			e = &Endpoint{
				id: item.identity, address: item.addr.String(), config: &s.config, set: s, neighbour: s.neighbour(item.node),
			}
			if others {
				e.born = s.config.now()
			}
			e.direct.endpoint = e
			s.locate(e)
			s.endpoints[item.identity] = e
		}
		e.protected.Store(item.protected)
		if where := e.where.Load(); where == nil || *where != item.place {
			place := item.place
			e.where.Store(&place)
		}
		m.all = append(m.all, e)
		if !item.draining {
			m.ready = append(m.ready, e)
		}
	}
	return m
}

// assign gives g new members. Endpoints that nobody may pick any more lose their idle connections at once.
func (s *Set) assign(g *Group, m *members) {
	for _, e := range m.all {
		e.refs++
	}
	for _, e := range m.ready {
		e.ready++
		e.retired.Store(false)
	}
	old := g.members.Swap(m)
	g.view.Store(nil) // which holds on to endpoints that may be gone
	for _, e := range old.ready {
		if e.ready--; e.ready == 0 {
			e.retired.Store(true)
			e.closeIdle()
		}
	}
	for _, e := range old.all {
		if e.refs--; e.refs == 0 {
			e.gone.Store(true)
			delete(s.endpoints, e.id)
		}
	}
}
