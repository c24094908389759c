package dns

import (
	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

// View is what the mesh's names are answered from: the config that is in use right now. Its methods are called for
// every query, from many goroutines at once, and must not wait for anything; what they return is read only.
type View interface {
	// Mesh is nil before the first config.
	Mesh() *configv1.Mesh
	// Service returns the resource of a service, or of one pod of a headless service if pod isn't empty; nil if there
	// is none. open says that it can be called here: a listener of it (or the shared one) is open on this proxy.
	Service(namespace, name, pod string) (s *configv1.Service, open bool)
	// Endpoints returns the endpoints of a service (of all its pods); nil if there are none.
	Endpoints(namespace, name string) *configv1.Endpoints
}
