// Package shadow plans the mesh addresses: for every meshed service a shadow Service in the mesh's namespace with a
// target port per (service, port) and EndpointSlices that point at the proxies. It is pure: the state is what the
// cluster holds, the plan is the difference to what it should hold.
package shadow

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/tulle-mesh/tulle/internal/topology"
)

// Unit names what has a mesh address: a service, or one pod of a headless service that asked for per-pod names.
type Unit struct {
	topology.Name
	Pod string
}

// PortKey is a service port; TCP (and HTTP) and UDP are counted apart.
type PortKey struct {
	Number int32
	UDP    bool
}

// Assignment is the mesh address of a unit as the cluster holds it.
type Assignment struct {
	Unit        Unit
	Addresses   []netip.Addr // what its mesh names resolve to
	Shared      bool         // Addresses are the shared address
	TargetPorts map[PortKey]int32
	Bind        netip.Addr // the local address that the listeners bind, in standalone mode; zero = all addresses
}

// SharedPort is one port number of the shared address.
type SharedPort struct{ Port, TargetPort int32 }

// Assigned is all that Observe read back.
type Assigned struct {
	Units  map[Unit]Assignment
	Shared []SharedPort
}

// Proxy is a proxy pod that takes traffic.
type Proxy struct {
	Pod       string
	UID       string
	Node      string
	Zone      string
	Addresses []netip.Addr
	Ready     bool // ready and not terminating
}

// State is what the mesh's namespace holds: the shadow Services and their slices, by label.
type State struct {
	Services []*corev1.Service
	Slices   []*discoveryv1.EndpointSlice
}

// Changes are the writes that lead from State to the plan. Services are written before slices, deletions come last.
type Changes struct {
	CreateServices []*corev1.Service
	UpdateServices []*corev1.Service
	DeleteServices []*corev1.Service
	CreateSlices   []*discoveryv1.EndpointSlice
	UpdateSlices   []*discoveryv1.EndpointSlice
	DeleteSlices   []*discoveryv1.EndpointSlice
}
