// Package status is the mesh's state as the controllers write it down for `tulle check`, `tulle status` and
// `tulle bugreport`: the ConfigMap tulle-status in the mesh's namespace, readable with nothing but a kubeconfig.
//
// The leader owns the key status.json; every replica owns the key replica.<pod>.json (the proxies that are connected to
// it). A document that is too large for plain text is under the same key with ".gz" in binaryData.
//
// One key is not theirs: dns-bypass, which people set to "on" to make mesh names answer with the plain Services' addresses
// (`tulle dns bypass on`).
//
// Documents are written when they change, at most every few seconds: the Lease tulle-controller says who is alive.
//
// What keeps the cluster's DNS writes a ConfigMap of its own, tulle-dns, in which nobody else writes: the right to write
// tulle-status is the right to turn the kill switch, and to speak for every controller. The leader passes on what it says.
package status

import (
	"time"

	"github.com/tulle-mesh/tulle/internal/problem"
)

// Names of the ConfigMap and its keys.
const (
	ConfigMap     = "tulle-status"
	LeaderKey     = "status.json"
	ReplicaPrefix = "replica."
	ReplicaSuffix = ".json"
	BypassKey     = "dns-bypass"
	BypassOn      = "on"

	DNSConfigMap = "tulle-dns"   // of the process that keeps the cluster's DNS; its Deployment and Lease are called so, too
	DNSKey       = "status.json" // a DNSReport
)

// ReplicaKey returns the key of a controller pod's document.
func ReplicaKey(pod string) string { return ReplicaPrefix + pod + ReplicaSuffix }

// Status is everything that the ConfigMap holds.
type Status struct {
	Leader   Leader
	Replicas []Replica // by pod
	Bypass   bool      // the kill switch of the mesh names is on
}

// Leader is what the elected controller writes.
type Leader struct {
	Pod     string    `json:"pod"`
	Version string    `json:"version"` // of the build
	Updated time.Time `json:"updated"`
	// Controllers are the pods of all replicas that exist and wrote a document, by name.
	Controllers []string `json:"controllers,omitempty"`
	// ConfigVersion is a hash over all config that proxies share. Replicas that saw the same objects have the same.
	ConfigVersion string    `json:"configVersion"`
	Addresses     Addresses `json:"addresses"`
	DNS           *DNS      `json:"dns,omitempty"`    // nil until the DNS manager said something
	Engine        *Engine   `json:"engine,omitempty"` // nil: the mesh's own proxy
	// Direct says of every enforced workload whether it can be called past the mesh; by workload.
	Direct []Direct `json:"direct,omitempty"`
	// Identity is nil if the mesh has no identities.
	Identity *Identity `json:"identity,omitempty"`
	// ProblemCount counts all problems, also those that found no room in Problems.
	ProblemCount int       `json:"problemCount"`
	Problems     []Problem `json:"problems,omitempty"` // sorted
}

// Addresses counts the mesh addresses.
type Addresses struct {
	Mode      string `json:"mode"`      // dedicated or shared: the value addresses.http
	Services  int    `json:"services"`  // units that want a mesh address
	Assigned  int    `json:"assigned"`  // units that have one
	Dedicated int    `json:"dedicated"` // shadow Services, without the shared one
	Shared    int    `json:"shared"`    // units that are reached through the shared address
	Nodes     int    `json:"nodes"`     // nodes with a ready proxy
	Proxies   int    `json:"proxies"`   // proxy pods that are neither done nor terminating
	Ready     int    `json:"ready"`     // ready ones of them
}

// Identity is by what the proxies of the nodes know each other.
type Identity struct {
	Mode  string `json:"mode"`  // tulle or spire: the value identity.mode
	Roots int    `json:"roots"` // that are trusted; 0 with SPIRE, which says it to the proxies itself
	// CAEnds is when the CA that signs now ends; zero if there is none, or with SPIRE.
	CAEnds time.Time `json:"caEnds,omitzero"`
	// WithoutProxy are nodes with pods and without a ready proxy, by name, at most MaxNodes of NodesWithoutProxy: protected
	// pods there can be called from their own node only.
	WithoutProxy      []string `json:"withoutProxy,omitempty"`
	NodesWithoutProxy int      `json:"nodesWithoutProxy"`
	// PlainNodes is how many nodes have a ready proxy, and none that knows of identities: calls there are in the clear.
	PlainNodes int `json:"plainNodes,omitempty"`
}

// MaxNodes bounds how many nodes are written down by name.
const MaxNodes = 20

// Engine is a proxy that is not the mesh's own.
type Engine struct {
	Name   string   `json:"name"`             // e.g. traefik
	Limits []string `json:"limits,omitempty"` // what it can't do, a line each
}

// DNS is the state of the stub domain in the cluster's DNS.
type DNS struct {
	Mode    string   `json:"mode"`           // manage, print or off
	Kind    string   `json:"kind,omitempty"` // e.g. corefile, coredns-custom, kube-dns, openshift; unsupported
	Object  string   `json:"object,omitempty"`
	Zones   []string `json:"zones,omitempty"`
	State   string   `json:"state"` // ok, pending, reverted, fighting, refused, unsupported, print, off
	Message string   `json:"message,omitempty"`
	// Writer is the pod that says so; empty if none is to look.
	Writer string `json:"writer,omitempty"`
}

// DNSReport is what the process that keeps the cluster's DNS writes about it.
type DNSReport struct {
	Pod     string    `json:"pod"`
	Version string    `json:"version"` // of the build
	Updated time.Time `json:"updated"` // it is written anew every few minutes
	DNS     DNS       `json:"dns"`
	// Problems are whole, unlike those of a Leader.
	Problems []Problem `json:"problems,omitempty"`
}

// Direct is what is known about calls to a workload that avoid its mesh names.
type Direct struct {
	Workload string   `json:"workload"`         // namespace/serviceaccount
	Mode     string   `json:"mode"`             // report or close
	State    string   `json:"state"`            // Enforced, EnforcedExcept or Bypassable
	Except   []string `json:"except,omitempty"` // who is admitted besides the proxies
	Why      []string `json:"why,omitempty"`    // of Bypassable
}

// Problem is a problem.Problem as it is written down; its message may be cut.
type Problem struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Namespace  string         `json:"namespace,omitempty"`
	Name       string         `json:"name"`
	UID        string         `json:"uid,omitempty"`
	Reason     problem.Reason `json:"reason"`
	Message    string         `json:"message"`
}

// Replica is what every controller pod writes about itself.
type Replica struct {
	Pod           string    `json:"pod"`
	Version       string    `json:"version"` // of the build
	Started       time.Time `json:"started"`
	Updated       time.Time `json:"updated"`
	ConfigVersion string    `json:"configVersion"`     // that it serves
	Proxies       []Proxy   `json:"proxies,omitempty"` // connected to this replica, by pod
}

// Proxy is a connected proxy.
type Proxy struct {
	Pod       string    `json:"pod"`
	Node      string    `json:"node"`
	Connected time.Time `json:"connected"`
	// Current is true if the proxy has acknowledged everything that this replica serves it.
	Current bool `json:"current"`
	// Refused are the resources that it could not use, at most MaxRefused of them. The leader reads those of all replicas.
	Refused []Refusal `json:"refused,omitempty"`
}

// MaxRefused bounds what is written down for each proxy.
const MaxRefused = 20

// Refusal is a resource that a proxy could not use; what it was before stays in use.
type Refusal struct {
	Type     string `json:"type"` // its message's full name, e.g. tulle.config.v1.Service
	Name     string `json:"name"`
	Version  string `json:"version"`
	Reason   string `json:"reason"`
	BusyPort uint32 `json:"busyPort,omitempty"` // the target port that could not be bound
	BusyUDP  bool   `json:"busyUDP,omitempty"`
}

// FromProblem makes a Problem with a message of at most 400 bytes.
func FromProblem(p problem.Problem) Problem {
	out := WholeProblem(p)
	out.Message = cut(p.Message, 400)
	return out
}

// WholeProblem makes a Problem with the whole message.
func WholeProblem(p problem.Problem) Problem {
	return Problem{
		APIVersion: p.Object.APIVersion, Kind: p.Object.Kind, Namespace: p.Object.Namespace, Name: p.Object.Name, UID: p.Object.UID,
		Reason: p.Reason, Message: p.Message,
	}
}

// Problem is the problem that was written down.
func (p Problem) Problem() problem.Problem {
	return problem.Problem{
		Object: problem.Ref{APIVersion: p.APIVersion, Kind: p.Kind, Namespace: p.Namespace, Name: p.Name, UID: p.UID},
		Reason: p.Reason, Message: p.Message,
	}
}
