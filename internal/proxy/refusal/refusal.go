// Package refusal names the reasons for which the proxy refuses a request, connection or datagram. The names are an
// interface: they are in a header of every refusal, in the log and in a metric, and docs/reasons.md explains them.
package refusal

// Header carries the reason on HTTP.
const Header = "Tulle-Reason"

// Reason is a code such as "no-endpoint". The zero value means that nothing was refused.
type Reason string

// The reasons. docs/reasons.md has a row for each.
const (
	NoService      Reason = "no-service"
	UnknownHost    Reason = "unknown-host"
	NoRoute        Reason = "no-route"
	NoBackend      Reason = "no-backend"
	NoEndpoint     Reason = "no-endpoint"
	ConnectFailed  Reason = "connect-failed"
	UpstreamFailed Reason = "upstream-failed"
	UpgradeFailed  Reason = "upgrade-failed"
	Timeout        Reason = "timeout"
	BadRequest     Reason = "bad-request"
	HeadTimeout    Reason = "head-timeout"
	TargetTooLong  Reason = "target-too-long"
	HeadTooLarge   Reason = "head-too-large"
	BadCoding      Reason = "bad-coding"
	BadVersion     Reason = "bad-version"
	ConnectMethod  Reason = "connect-method"
	Draining       Reason = "draining"
	Evicted        Reason = "evicted"
	RateLimited    Reason = "rate-limited"
	CircuitOpen    Reason = "circuit-open"
	OverShare      Reason = "over-share"
	Internal       Reason = "internal"
)

// The reasons of access control, as package access has them.
const (
	NoTarget       Reason = "no-target"
	SourceDenied   Reason = "source-denied"
	PortDenied     Reason = "port-denied"
	RouteDenied    Reason = "route-denied"
	BadPath        Reason = "bad-path"
	UnknownCaller  Reason = "unknown-caller"
	IdentityStale  Reason = "identity-stale"
	CallerNotLocal Reason = "caller-not-local"
	NoPolicy       Reason = "no-policy"
	NoProxy        Reason = "no-proxy-at-destination"
	NoCertificate  Reason = "no-certificate"
)

// AccessDenied stands in for the reasons of access control where clients are not to be told them.
const AccessDenied Reason = "access-denied"

// The gRPC codes that refusals are told by.
const (
	grpcInvalidArgument  = 3
	grpcDeadlineExceeded = 4
	grpcPermissionDenied = 7
	grpcExhausted        = 8
	grpcUnimplemented    = 12
	grpcInternal         = 13
	grpcUnavailable      = 14
)

// Answer is how a reason is told to clients.
type Answer struct {
	Status int    // of HTTP; 0 for reasons that HTTP has no use for
	GRPC   int    // code for gRPC requests
	Text   string // one line for people
}

// Answer returns how r is told. An unknown reason is told as an internal error.
func (r Reason) Answer() Answer {
	switch r {
	case NoService:
		return Answer{503, grpcUnavailable, "this service or port is no longer part of the mesh"}
	case UnknownHost:
		return Answer{421, grpcUnimplemented, "the host is not the mesh name of a service with this HTTP port"}
	case NoRoute:
		return Answer{503, grpcUnavailable, "no route of this service fits the request"}
	case NoBackend:
		return Answer{503, grpcUnavailable, "all backends of this route have weight 0"}
	case NoEndpoint:
		return Answer{503, grpcUnavailable, "the chosen backend has no ready endpoint"}
	case ConnectFailed:
		return Answer{503, grpcUnavailable, "no endpoint of the chosen backend could be connected to"}
	case UpstreamFailed:
		return Answer{502, grpcUnavailable, "the endpoint broke the connection or did not answer in HTTP"}
	case UpgradeFailed:
		return Answer{502, grpcUnavailable, "the endpoint switched to a protocol that was not asked for"}
	case Timeout:
		return Answer{504, grpcDeadlineExceeded, "the time limit of the service has passed"}
	case BadRequest:
		return Answer{400, grpcInvalidArgument, "the request could not be read, or not be passed on as it is"}
	case HeadTimeout:
		return Answer{408, grpcDeadlineExceeded, "the head of the request took too long"}
	case TargetTooLong:
		return Answer{414, grpcInvalidArgument, "the first line of the request is too long"}
	case HeadTooLarge:
		return Answer{431, grpcInvalidArgument, "the head of the request is too long, or has too many fields"}
	case BadCoding:
		return Answer{501, grpcUnimplemented, "the request has a transfer coding other than chunked"}
	case BadVersion:
		return Answer{505, grpcUnimplemented, "this is neither HTTP/1.1 nor HTTP/1.0"}
	case ConnectMethod:
		return Answer{405, grpcUnimplemented, "CONNECT is not served"}
	case Draining:
		return Answer{503, grpcUnavailable, "this proxy is shutting down"}
	case Evicted:
		return Answer{0, 0, "the flow made room for newer ones"}
	case RateLimited:
		return Answer{429, grpcExhausted, "the rate limit of the service is reached"}
	case CircuitOpen:
		return Answer{503, grpcUnavailable, "too much failed at this service of late, or took too long"}
	case OverShare:
		return Answer{503, grpcExhausted, "this proxy is at its limit, and the caller's namespace has more than its share"}
	case NoTarget:
		return Answer{403, grpcPermissionDenied, "no TrafficTarget allows anybody to call this workload"}
	case SourceDenied:
		return Answer{403, grpcPermissionDenied, "no TrafficTarget lists the caller for this workload"}
	case PortDenied:
		return Answer{403, grpcPermissionDenied, "the caller may not call this workload on this port or by this protocol"}
	case RouteDenied:
		return Answer{403, grpcPermissionDenied, "the caller may call this workload, but no rule fits the request"}
	case BadPath:
		return Answer{400, grpcInvalidArgument, "rules judge the path, and it can't be brought into one form"}
	case UnknownCaller:
		return Answer{403, grpcPermissionDenied, "nobody knows who calls"}
	case IdentityStale:
		return Answer{403, grpcPermissionDenied, "the caller's identity was not confirmed in time"}
	case CallerNotLocal:
		return Answer{503, grpcUnavailable, "the caller is not on this proxy's node, so nobody can vouch for it"}
	case NoPolicy:
		return Answer{503, grpcUnavailable, "the workload is protected, and its policy is not known here"}
	case NoProxy:
		return Answer{503, grpcUnavailable, "no proxy is ready on the endpoint's node, to judge who calls a protected workload"}
	case NoCertificate:
		return Answer{503, grpcUnavailable, "there is no certificate by which the endpoint's node could know the caller"}
	case AccessDenied:
		return Answer{403, grpcPermissionDenied, "access denied"}
	default:
		return Answer{500, grpcInternal, "the proxy made a mistake; its log says more"}
	}
}

// All lists the reasons.
func All() []Reason {
	return []Reason{
		NoService, UnknownHost, NoRoute, NoBackend, NoEndpoint, ConnectFailed, UpstreamFailed, UpgradeFailed, Timeout,
		BadRequest, HeadTimeout, TargetTooLong, HeadTooLarge, BadCoding, BadVersion, ConnectMethod, Draining, Evicted,
		RateLimited, CircuitOpen, OverShare, Internal,
		NoTarget, SourceDenied, PortDenied, RouteDenied, BadPath, UnknownCaller, IdentityStale, CallerNotLocal, NoPolicy,
		NoProxy, NoCertificate, AccessDenied,
	}
}
