package proxy

import configv1 "github.com/tulle-mesh/tulle/api/config/v1"

// The methods here are the view of the mesh's DNS server. What they return is read only.

// Mesh returns the settings that all proxies share, nil before the first config.
func (p *Proxy) Mesh() *configv1.Mesh { return p.now.Load().mesh }

// Service returns the resource of a service, or of one pod of a headless service if pod isn't empty; nil if there is
// none. open says that it can be called here: at least one of its ports has an open listener. A proxy that drains has
// none, and is asked all the same, by resolvers that keep their connections: the address leads to other proxies then, so
// whatever has one is open.
func (p *Proxy) Service(namespace, name, pod string) (service *configv1.Service, open bool) {
	s := p.now.Load()
	key := namespace + "/" + name
	if pod != "" {
		key += "/" + pod
	}
	service = s.services[key]
	if service == nil {
		return nil, false
	}
	if p.leaving.Load() {
		return service, len(service.GetAddresses()) > 0
	}
	for _, port := range service.GetPorts() {
		if s.reachable(key, service, port) {
			return service, true
		}
	}
	return service, false
}

// Endpoints returns the endpoints of a service, nil if none are known.
func (p *Proxy) Endpoints(namespace, name string) *configv1.Endpoints {
	return p.now.Load().endpoints[namespace+"/"+name]
}

func (s *state) reachable(name string, service *configv1.Service, port *configv1.Port) bool {
	if target := port.GetTargetPort(); target != 0 {
		c, open := s.open[socketOf(service.GetBindAddress(), target, port.GetProtocol())]
		if open && c.service == name && c.port == port.GetPort() {
			return true
		}
	}
	if !service.GetShared() || port.GetProtocol() != configv1.Protocol_PROTOCOL_HTTP {
		return false
	}
	for _, l := range s.mesh.GetSharedListeners() {
		c, open := s.open[socketOf("", l.GetTargetPort(), port.GetProtocol())]
		if l.GetPort() == port.GetPort() && open && c.service == "" {
			return true
		}
	}
	return false
}
