package problem

// Add a Reason with one doc line here and a section of the same name in docs/problems.md; a test compares the two.

// Reasons of SMI objects that are set aside: package smi.
const (
	// UnknownKind is an object whose apiVersion and kind the mesh does not know.
	UnknownKind Reason = "UnknownKind"
	// InvalidObject is an object that cannot be decoded or makes no sense.
	InvalidObject Reason = "InvalidObject"
	// InvalidWeight is a TrafficSplit with a weight that is not a whole number from 0 to 2147483647.
	InvalidWeight Reason = "InvalidWeight"
	// InvalidRegex is an HTTPRouteGroup with a regular expression that RE2 does not take.
	InvalidRegex Reason = "InvalidRegex"
	// InvalidTarget is a TrafficTarget that allows nothing because it is incomplete or names no ServiceAccount.
	InvalidTarget Reason = "InvalidTarget"
)

// Reasons of Services and their endpoints: package topology.
const (
	// InvalidService is a Service with a name or a port that cannot be meshed.
	InvalidService Reason = "InvalidService"
	// ExternalName is a Service of type ExternalName, which the mesh refuses.
	ExternalName Reason = "ExternalName"
	// UnsupportedProtocol is a Service port that is neither TCP nor UDP.
	UnsupportedProtocol Reason = "UnsupportedProtocol"
	// InvalidAnnotation is an annotation with a wrong value; the default stands in.
	InvalidAnnotation Reason = "InvalidAnnotation"
	// UnsupportedAnnotation is an annotation of the mesh that has no effect.
	UnsupportedAnnotation Reason = "UnsupportedAnnotation"
	// EndpointRefused is a Service with endpoints that the mesh does not send traffic to.
	EndpointRefused Reason = "EndpointRefused"
)

// Reasons of TrafficSplits and TrafficTargets: package topology.
const (
	// RootNotFound is a TrafficSplit whose root service does not exist or is not meshed.
	RootNotFound Reason = "RootNotFound"
	// BackendNotFound is a TrafficSplit with a backend that does not exist or cannot be used.
	BackendNotFound Reason = "BackendNotFound"
	// PortMismatch is a TrafficSplit with a backend that lacks a port of the root service.
	PortMismatch Reason = "PortMismatch"
	// SelfReference is a TrafficSplit whose root service is among its backends.
	SelfReference Reason = "SelfReference"
	// ConflictingSplit is a TrafficSplit that loses against an older one of the same root service.
	ConflictingSplit Reason = "ConflictingSplit"
	// AllWeightsZero is a TrafficSplit that sends its traffic nowhere.
	AllWeightsZero Reason = "AllWeightsZero"
	// RouteGroupNotFound is a TrafficSplit that names an HTTPRouteGroup that does not exist or cannot be used.
	RouteGroupNotFound Reason = "RouteGroupNotFound"
	// TooManyMatches is an object that would give the proxies more matches to try than they should.
	TooManyMatches Reason = "TooManyMatches"
	// MatchesNeedHTTP is a TrafficSplit with matches whose root service has no HTTP port.
	MatchesNeedHTTP Reason = "MatchesNeedHTTP"
	// NotEnforced is a TrafficTarget that denies nothing, because access control is off for its destination.
	NotEnforced Reason = "NotEnforced"
	// DestinationElsewhere is a TrafficTarget outside its destination's namespace, which has no effect.
	DestinationElsewhere Reason = "DestinationElsewhere"
	// DestinationNotFound is a TrafficTarget whose destination is a ServiceAccount that does not exist.
	DestinationNotFound Reason = "DestinationNotFound"
	// RouteNotFound is a TrafficTarget with rules that name routes or matches which do not exist or cannot be used.
	RouteNotFound Reason = "RouteNotFound"
	// PortNotServed is a TrafficTarget that is limited to ports which no Service has for its destination.
	PortNotServed Reason = "PortNotServed"
	// InvalidAccessMode is a label with a mode of access control that is none, or less than it may be.
	InvalidAccessMode Reason = "InvalidAccessMode"
	// ExternalDestination is a Service with protected endpoints that are no pods.
	ExternalDestination Reason = "ExternalDestination"
)

// Reasons of calls past the mesh: packages bypass and controller.
const (
	// InvalidBypass is a label or annotation about calls past the mesh that makes no sense.
	InvalidBypass Reason = "InvalidBypass"
	// NotSeparable is a workload whose pods no NetworkPolicy can select without others.
	NotSeparable Reason = "NotSeparable"
	// PolicyNotWritten is a NetworkPolicy that the cluster refuses to take.
	PolicyNotWritten Reason = "PolicyNotWritten"
)

// Reasons of mesh addresses: packages shadow and controller.
const (
	// NoTargetPort is a Service port without a mesh address because all target ports of the mesh are taken.
	NoTargetPort Reason = "NoTargetPort"
	// AddressNotShareable is a Service that asks for the shared mesh address and has a port that is not HTTP.
	AddressNotShareable Reason = "AddressNotShareable"
	// AddressNotWritten is a Service whose mesh address the cluster refuses to take.
	AddressNotWritten Reason = "AddressNotWritten"
)

// Reasons of the cluster as a whole: packages kube and controller.
const (
	// KindUnreadable is a kind of objects that the cluster serves and the controller cannot read.
	KindUnreadable Reason = "KindUnreadable"
	// InternalError is a bug of the mesh: the objects of the cluster make it fail, and the config stays what it was.
	InternalError Reason = "InternalError"
)

// Reasons of the cluster's own DNS: package kube.
const (
	// DNSRefused is a configuration of the cluster's DNS that the mesh's zones cannot be put into.
	DNSRefused Reason = "DNSRefused"
	// DNSUnsupported is a cluster whose DNS takes no stub domains, or is not recognised.
	DNSUnsupported Reason = "DNSUnsupported"
	// DNSFighting is a configuration that somebody takes the mesh's zones out of again and again.
	DNSFighting Reason = "DNSFighting"
	// DNSUndone is a configuration that the mesh's zones were taken out of again because pods did not take them.
	DNSUndone Reason = "DNSUndone"
	// DNSNotServed is a configuration with the mesh's zones that not every pod of the cluster's DNS serves.
	DNSNotServed Reason = "DNSNotServed"
	// DNSNeedsRestart is a CoreDNS that does not reload its configuration.
	DNSNeedsRestart Reason = "DNSNeedsRestart"
	// DNSToPaste is a configuration that the user is to put the mesh's zones into, because dns.mode is print.
	DNSToPaste Reason = "DNSToPaste"
)

// Reasons of standalone mode's files: package files.
const (
	// UnreadableFile is a file, or a document of one, that cannot be read or is not YAML.
	UnreadableFile Reason = "UnreadableFile"
	// DuplicateObject is an object that an earlier file or document has, too.
	DuplicateObject Reason = "DuplicateObject"
)

// Reasons of proxies: packages controller and standalone.
const (
	// RefusedByProxy is a Service or endpoints that a proxy could not take into use; what it was before stays in use.
	RefusedByProxy Reason = "RefusedByProxy"
)

// Reasons of stock Traefik as the proxy engine: package traefik.
const (
	// MatchNotRendered is a TrafficSplit with a match that Traefik cannot judge; no request fits it.
	MatchNotRendered Reason = "MatchNotRendered"
	// NotEnforceable is a protected service that Traefik cannot protect as asked; what it cannot is closed.
	NotEnforceable Reason = "NotEnforceable"
)
