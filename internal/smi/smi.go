// Package smi decodes, converts and validates Service Mesh Interface objects of every served version into one shape.
// It is pure. An object that cannot be used yields Problems and no object; it never affects another.
package smi

import (
	"time"

	"github.com/tulle-mesh/tulle/internal/problem"
)

// Meta is what all SMI objects share.
type Meta struct {
	Ref     problem.Ref
	Created time.Time
}

// TrafficSplit sends the traffic of the root service Service to Backends in proportion to their weights
// (split.smi-spec.io).
type TrafficSplit struct {
	Meta
	Service  string // a service of the split's namespace; a fully qualified name is cut to its first label
	Backends []SplitBackend
	Matches  []string // names of HTTPRouteGroups in the split's namespace; none = everything
}

// SplitBackend is one share of a TrafficSplit.
type SplitBackend struct {
	Service string
	Weight  int64 // >= 0; v1alpha1's quantities in thousandths
}

// HTTPRouteGroup names HTTP matches (specs.smi-spec.io).
type HTTPRouteGroup struct {
	Meta
	Matches []HTTPMatch
}

// HTTPMatch fits a request if all of its parts do.
type HTTPMatch struct {
	Name      string
	PathRegex string        // as written; empty = any path
	Methods   []string      // upper case; empty = all ("*" is resolved to empty)
	Headers   []HeaderMatch // in a stable order
}

// HeaderMatch fits if a value of the header fits the expression.
type HeaderMatch struct {
	Name       string // lower case
	ValueRegex string // as written
}

// TCPRoute names ports; UDPRoute has the same shape.
type TCPRoute struct {
	Meta
	Ports []int32 // empty = all ports
}

// UDPRoute names ports.
type UDPRoute struct {
	Meta
	Ports []int32 // empty = all ports
}

// TrafficTarget allows Sources to call Destination on Rules (access.smi-spec.io).
type TrafficTarget struct {
	Meta
	Destination Identity
	Port        int32 // access v1alpha1's and v1alpha2's destination.port: a limit; 0 = none
	Rules       []Rule
	Sources     []Identity
}

// Identity is a ServiceAccount.
type Identity struct {
	Namespace string
	Name      string
}

// Rule refers to a route object in the TrafficTarget's namespace.
type Rule struct {
	Kind    string // HTTPRouteGroup, TCPRoute or UDPRoute
	Name    string
	Matches []string // names of matches of an HTTPRouteGroup; empty = all
}

// Objects are decoded SMI objects, sorted by namespace and name.
type Objects struct {
	TrafficSplits   []TrafficSplit
	HTTPRouteGroups []HTTPRouteGroup
	TCPRoutes       []TCPRoute
	UDPRoutes       []UDPRoute
	TrafficTargets  []TrafficTarget
}
