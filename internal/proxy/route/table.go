// Package route decides where traffic goes: which service and port a listener or Host means, which route of the port
// fits a request, and which backend's turn it is. A Table is immutable; what must outlive it (whose turn it is, which
// endpoints there are) is shared between one table and the next.
package route

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy/balance"
	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
	"github.com/tulle-mesh/tulle/internal/proxy/share"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// Table is everything that traffic is routed by.
type Table struct {
	Zones    []string // longest first
	Services map[string]*Service
	Callers  map[netip.Addr]*Caller
	// NodeAddresses are the node's own; PodRanges those of its pods, as far as they are known.
	NodeAddresses map[netip.Addr]bool
	PodRanges     []netip.Prefix
	TrustDomain   string // of SPIFFE IDs
	ReasonDetail  configv1.ReasonDetail
}

// OfThisNode says whether an address may be one of a pod of this node.
func (t *Table) OfThisNode(a netip.Addr) bool {
	return len(t.PodRanges) == 0 || slices.ContainsFunc(t.PodRanges, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Service is a compiled service.
type Service struct {
	Name      string // "namespace/name" or "namespace/name/pod": the resource's name
	Namespace string
	Short     string // the name within the namespace, "name" or "name/pod"
	Ports     []*Port
	Guard     *Guard // never nil
	keys      []upstream.Key
}

// Port is a compiled port of a service.
type Port struct {
	Service       *Service
	Number        uint32
	Protocol      configv1.Protocol
	TargetPort    uint32
	Routes        []*Route
	RetryAttempts int
	Timeout       time.Duration // of a whole HTTP request; 0 = none
	IdleTimeout   time.Duration // of TCP connections and UDP flows; 0 = the default
	EncodedSlash  bool          // paths with %2F are judged and forwarded as they are
	JudgesPaths   bool          // a route judges paths, so that they have to be canonical
}

// UDP says that the port is a UDP port; TCP and UDP are numbered apart.
func (p *Port) UDP() bool { return p.Protocol == configv1.Protocol_PROTOCOL_UDP }

// Route sends what fits to its backends in turn.
type Route struct {
	Split    string // the TrafficSplit behind it, empty for the service's own endpoints
	Backends []*Backend
	matches  []match
	turns    *balance.Weighted
}

// Backend is a weighted share of a route.
type Backend struct {
	Service   string // "namespace/name"
	Port      uint32
	Weight    uint32
	Scheme    configv1.Scheme
	Endpoints *upstream.Group
}

// Next returns the backend whose turn it is, nil if all weights are zero.
func (r *Route) Next() *Backend {
	i := r.turns.Next()
	if i < 0 {
		return nil
	}
	return r.Backends[i]
}

// Caller is a workload on this node.
type Caller struct {
	Namespace      string
	Pod            string
	ServiceAccount string
	Workload       string // "deployment/web"
	UID            string
	Expires        time.Time // when the entry is no identity any more; zero = never
	Share          *share.Account
}

// Expired says that a caller is nobody any more.
func (c *Caller) Expired() bool { return !c.Expires.IsZero() && !time.Now().Before(c.Expires) }

// Binding is what a listener stands for. It belongs to the connections that were accepted for it, also after the
// listener is gone or stands for something else.
type Binding struct {
	Service string // the resource's name; empty for a shared listener, where the Host says it
	Port    uint32 // the service port's number
	UDP     bool
	// Closed is set once the listener is gone: connections are asked to end when they can.
	Closed atomic.Bool
	// Tunnel is set for what came from another node's proxy, in place of all above; nil for listeners.
	Tunnel *Tunnelled
}

// Port returns the port of a dedicated listener, nil if the service no longer has it.
func (t *Table) Port(b *Binding) *Port {
	return t.Services[b.Service].Port(b.Port, b.UDP)
}

// HTTPPort returns the HTTP port that a request with the given Host means on a listener, or why there is none.
func (t *Table) HTTPPort(b *Binding, host string) (*Port, refusal.Reason) {
	switch {
	case b.Tunnel != nil:
		return b.Tunnel.Port, ""
	case b.Service != "":
		if p := t.Port(b); p != nil && p.Protocol == configv1.Protocol_PROTOCOL_HTTP {
			return p, ""
		}
		return nil, refusal.NoService
	}
	if p := t.lookup(host, b.Port); p != nil {
		return p, ""
	}
	return nil, refusal.UnknownHost
}

// LeadsTo says whether a route of the port has a backend of that name.
func (p *Port) LeadsTo(service string) bool {
	return slices.ContainsFunc(p.Routes, func(r *Route) bool {
		return slices.ContainsFunc(r.Backends, func(b *Backend) bool { return b.Service == service })
	})
}

// Port returns a port by number, nil if s is nil or has none.
func (s *Service) Port(number uint32, udp bool) *Port {
	if s == nil {
		return nil
	}
	for _, p := range s.Ports {
		if p.Number == number && p.UDP() == udp {
			return p
		}
	}
	return nil
}
