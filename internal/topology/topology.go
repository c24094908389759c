// Package topology derives the mesh graph from a set of Kubernetes objects.
// It is pure: equal Resources give an equal Topology, in any input order.
package topology

import (
	"cmp"
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/internal/smi"
)

// Name is a namespace and a name.
type Name struct{ Namespace, Name string }

func (n Name) String() string { return n.Namespace + "/" + n.Name }

// Compare orders by namespace, then name.
func (n Name) Compare(o Name) int {
	return cmp.Or(cmp.Compare(n.Namespace, o.Namespace), cmp.Compare(n.Name, o.Name))
}

// Topology is the mesh as the objects describe it. It is immutable once built; all lists are sorted.
type Topology struct {
	Services []Service // by namespace, then name, then pod
	// Callers are the running pods with an address that are neither hostNetwork nor terminal, by node, then name.
	Callers []Caller
	// Workloads are the protected ones among those behind the endpoints of Services, by name.
	Workloads []Workload
	Nodes     []Node // by name
	// Exposed are the ports of enforced workloads that Services lead to, whether ready or not: what calls past the mesh
	// would reach. By workload, pod, port.
	Exposed []Exposed
}

// Exposed is a port of a pod behind a Service.
type Exposed struct {
	Workload Name
	Pod      Name // the zero Name for what is no pod
	Port     int32
	UDP      bool
}

// Compare orders by workload, pod and port; TCP before UDP.
func (e Exposed) Compare(o Exposed) int {
	return cmp.Or(e.Workload.Compare(o.Workload), e.Pod.Compare(o.Pod), cmp.Compare(e.Port, o.Port), boolCompare(e.UDP, o.UDP))
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// Node is a node of the cluster.
type Node struct {
	Name      string
	PodRanges []netip.Prefix // of its pods, as far as the cluster says
	Addresses []netip.Addr   // its own
	Zone      string         // empty if it has none
}

// Service is a meshed service.
type Service struct {
	Name Name
	// Pod is set for the unit of one pod of a headless service that asks for per-pod names; Name is the service's.
	Pod        string
	ClusterIPs []netip.Addr // the plain Service's own, none if headless
	Dedicated  bool         // annotation tulle.dev/address: dedicated
	Shared     bool         // annotation tulle.dev/address: shared
	Prefer     Prefer       // which of its endpoints
	// Breaker is when HTTP requests are refused, an expression of package breaker; empty = never.
	Breaker string
	Rate    Rate
	Ports   []Port // by number, then protocol
	// Backend is true for a service that is in the list only as the backend of a split: it is not meshed itself and gets
	// endpoints but no address.
	Backend bool
}

// Prefer says which endpoints proxies prefer.
type Prefer string

// What may be preferred; empty means nothing.
const (
	PreferZone Prefer = "zone" // endpoints in the proxy's zone, as far as they are enough
	PreferNode Prefer = "node" // endpoints on the proxy's node, then as PreferZone
)

// Rate limits the HTTP requests per second that a proxy lets through to a service; an average of 0 means no limit.
type Rate struct{ Average, Burst uint32 }

// Protocol says how a port is served.
type Protocol string

// The protocols of a port.
const (
	HTTP Protocol = "http"
	TCP  Protocol = "tcp"
	UDP  Protocol = "udp"
)

// Scheme says how an HTTP backend is spoken to.
type Scheme string

// The schemes of a backend.
const (
	SchemeHTTP  Scheme = "http"
	SchemeH2C   Scheme = "h2c"
	SchemeHTTPS Scheme = "https"
)

// Port is one port of a service.
type Port struct {
	Number        int32
	Name          string
	Protocol      Protocol
	Scheme        Scheme // how HTTP is spoken to the endpoints, also if Protocol is TCP; see Backend
	Routes        []Route
	RetryAttempts int
	Timeout       time.Duration // 0 = none
	EncodedSlash  bool          // paths with %2F are judged and forwarded as they are
	Endpoints     []Endpoint    // by address, then port
}

// Route sends requests that fit one of Matches to Backends; the last route of a port has no matches. Backends are never
// empty, but all their weights may be 0: then the traffic is refused.
type Route struct {
	Split    *Name // the TrafficSplit that made it; nil = the service's own endpoints
	Matches  []smi.HTTPMatch
	Backends []Backend
}

// Backend is a weighted share of a route. The routes of a single pod's unit name its service, and mean the unit.
type Backend struct {
	Service Name
	Port    int32
	Weight  int64  // 0 to 4294967295
	Scheme  Scheme // of the backend's own port
}

// Endpoint is one address behind a port.
type Endpoint struct {
	Address  netip.Addr
	Port     int32
	Draining bool
	Node     string
	Zone     string
	Pod      string
	// Workload is who is behind the address: a namespace and a ServiceAccount, which is empty for what is no pod and was
	// given no identity.
	Workload  Name
	Protected bool // calls to the workload are audited or enforced
	// HostNetwork says that the pod is on its node's own network.
	HostNetwork bool
}

// Caller is a pod that may call through the mesh.
type Caller struct {
	Node           string
	Addresses      []netip.Addr
	Namespace      string
	Pod            string
	UID            string
	ServiceAccount string
	Workload       string // e.g. "deployment/web"
}
