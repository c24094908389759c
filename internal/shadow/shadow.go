// Package shadow plans the mesh addresses: for every meshed service a shadow Service in the mesh's namespace with a
// target port per (service, port) and EndpointSlices that point at the proxies. It is pure: the state is what the
// cluster holds, the plan is the difference to what it should hold. Nothing else is remembered: the assignments are
// read back from the shadow Services, and what takes time (a switch between dedicated and shared addresses) is written
// on them as annotations. docs/design/controller.md says why it is so.
package shadow

import (
	"net/netip"
	"time"

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

// Config is the administrator's part of a plan.
type Config struct {
	Namespace  string // the mesh's
	SharedHTTP bool   // addresses.http: shared
	// Local keeps calls on the client's node whatever happens (internalTrafficPolicy: Local), where the cluster's proxy
	// does not know PreferSameNode.
	Local bool
	// SliceSize is how many endpoints a slice has at most; default 100, as in Kubernetes itself, and never more than the
	// 1,000 that the API takes. All of a slice is written, and sent to every node, when one proxy is replaced.
	SliceSize int
	// TargetPorts limits target ports to what the proxies listen on, if those can't open any other; the zero value is
	// no limit. A target port outside of it is replaced.
	TargetPorts Range
	Now         time.Time
	// Settle is how long an address exists on all nodes before names move to it; default 10 s.
	Settle time.Duration
	// Overlap is how long an address goes on being served after names moved away from it; default 10 min.
	Overlap time.Duration
}

// Assignment is the mesh address of a unit as the cluster holds it.
type Assignment struct {
	Unit      Unit
	Addresses []netip.Addr // what its mesh names resolve to; none while there is no address
	Shared    bool         // Addresses are the shared address
	// TargetPorts are those of the unit's own shadow Service. While a unit moves between addresses it has them and is
	// Shared, too: both are to be served.
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
	Tunnels   bool // it serves other nodes' proxies
}

// State is what the mesh's namespace holds: the shadow Services and their slices, by label.
type State struct {
	Services []*corev1.Service
	Slices   []*discoveryv1.EndpointSlice
}

// Changes are the writes that lead from State to the plan. A Service is written before its slices, deletions come last.
// The objects are read only: they share parts with each other and with State.
type Changes struct {
	CreateServices []*corev1.Service
	UpdateServices []*corev1.Service
	DeleteServices []*corev1.Service
	CreateSlices   []*discoveryv1.EndpointSlice
	UpdateSlices   []*discoveryv1.EndpointSlice
	DeleteSlices   []*discoveryv1.EndpointSlice
	// Next is when a plan of the same state will be another one, because an address is moving; zero = never.
	Next time.Time
}

// Empty says whether there is nothing to write.
func (c Changes) Empty() bool { return c.Len() == 0 }

// Len is the number of writes.
func (c Changes) Len() int {
	return len(c.CreateServices) + len(c.UpdateServices) + len(c.DeleteServices) +
		len(c.CreateSlices) + len(c.UpdateSlices) + len(c.DeleteSlices)
}

// Names that other tools know the mesh addresses by.
const (
	ManagedBy  = "tulle-controller" // of app.kubernetes.io/managed-by and endpointslice.kubernetes.io/managed-by
	SharedName = "tulle-http"       // the Service of the shared address

	KindLabel           = "tulle.dev/shadow" // service or shared
	KindService         = "service"
	KindShared          = "shared"
	NamespaceAnnotation = "tulle.dev/namespace"
	ServiceAnnotation   = "tulle.dev/service"
	PodAnnotation       = "tulle.dev/pod"
)

// Annotations by which the plan remembers a move between addresses. Times are RFC 3339.
const (
	// openAnnotation: the unit's names resolve to the shared address until then; the dedicated one is being set up.
	openAnnotation = "tulle.dev/open-at"
	// moveAnnotation: the unit's names resolve to this dedicated address until then; the shared one is being set up.
	moveAnnotation = "tulle.dev/move-at"
	// retireAnnotation: names resolve to the shared address; this one is served until then and deleted.
	retireAnnotation = "tulle.dev/retire-at"
	// membersAnnotation (shared Service): the units whose names may resolve to it, "*" = all that can.
	membersAnnotation = "tulle.dev/members"
	// retirePortsAnnotation (shared Service): ports that no unit uses any more, and until when they are served.
	retirePortsAnnotation = "tulle.dev/retire-ports"
)
