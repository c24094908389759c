// Package access decides whether a call is allowed: SMI's access control as one pure function over a compiled policy.
// The proxies, standalone mode and `tulle why` all decide by it. A Workload is immutable; what a decision costs depends
// on what the workload's policy says of the caller, and on nothing else.
package access

import "slices"

// Identity is who calls: a ServiceAccount. Names compare literally.
type Identity struct{ Namespace, ServiceAccount string }

func (i Identity) String() string { return i.Namespace + "/" + i.ServiceAccount }

// Standing says what is known of a caller.
type Standing int

// The zero value is nobody.
const (
	Unknown   Standing = iota // nobody knows the address
	Known                     // Identity says who
	Stale                     // was known, and was not confirmed in time
	Elsewhere                 // an address of another node
)

// Caller is who calls, as far as that is known. Identity counts only if the caller is Known.
type Caller struct {
	Identity
	Standing Standing
}

// Protocol is how a port is served.
type Protocol int

// The protocols.
const (
	HTTP Protocol = iota + 1
	TCP
	UDP
)

// Port is the Service's port that is called.
type Port struct {
	Number   uint32
	Protocol Protocol
}

// Request is what an HTTP request is judged by: the head that is forwarded.
type Request struct {
	Method string
	Path   string // as the client sent it, without the query
	Host   string
	// Values returns all values of a header by its canonical name (textproto.CanonicalMIMEHeaderKey), without Host.
	Values func(name string) []string
	// EncodedSlash says that %2F in a path is judged and forwarded as it is.
	EncodedSlash bool
}

// Mode says what becomes of calls that no rule allows.
type Mode int

// The modes of a workload that is protected.
const (
	Enforce Mode = iota // they are refused
	Audit               // they pass, and are counted
)

// Rule names what allowed a call.
type Rule struct {
	Target string // the TrafficTarget, "namespace/name"
	Kind   string // HTTPRouteGroup, TCPRoute or UDPRoute
	Route  string // the route object's name
	Match  string // the name of the match of an HTTPRouteGroup
}

// Verdict is what was decided.
type Verdict struct {
	Allow bool
	// Reason says why no rule allows the call. It is empty if one does, or if the workload is not protected. In audit
	// mode the call is allowed nonetheless.
	Reason Reason
	Rule   *Rule // what allows the call; nil if nothing does or has to
	Audit  bool  // nothing is enforced: the call is to be recorded
	// Path is the canonical path, to be forwarded in place of the one that the client sent; empty if that stays.
	Path string
}

// Decide says whether c may call the workload w on a port. r is the HTTP request, nil on other protocols. A workload
// that is not protected is nil.
func Decide(c Caller, w *Workload, p Port, r *Request) Verdict {
	if w == nil {
		return Verdict{Allow: true}
	}
	v := w.judge(c, p, r)
	v.Allow = v.Reason == ""
	if w.mode == Audit {
		v.Allow, v.Audit, v.Path = true, true, "" // traffic stays as it is
	}
	return v
}

func (w *Workload) judge(c Caller, p Port, r *Request) Verdict {
	switch c.Standing {
	case Known:
	case Stale:
		return Verdict{Reason: IdentityStale}
	case Elsewhere:
		return Verdict{Reason: CallerNotLocal}
	case Unknown:
		return Verdict{Reason: UnknownCaller}
	default:
		return Verdict{Reason: UnknownCaller}
	}
	a := w.sources[c.Identity]
	switch {
	case a == nil && len(w.sources) == 0:
		return Verdict{Reason: NoTarget}
	case a == nil:
		return Verdict{Reason: SourceDenied}
	case p.Protocol == UDP:
		return onPort(a.udp.rule(p.Number))
	case p.Protocol == TCP:
		return onPort(a.tcp.rule(p.Number))
	case p.Protocol == HTTP && r != nil:
		return a.judge(p.Number, r)
	}
	return Verdict{Reason: PortDenied}
}

func onPort(rule *Rule) Verdict {
	if rule == nil {
		return Verdict{Reason: PortDenied}
	}
	return Verdict{Rule: rule}
}

// judge decides on an HTTP request of a source.
func (a *allowed) judge(port uint32, r *Request) Verdict {
	v := Verdict{}
	path := r.Path
	if a.judgesPaths(port) {
		var ok bool
		if path, ok = Canonical(r.Path, r.EncodedSlash); !ok {
			return Verdict{Reason: BadPath}
		}
		if path != r.Path {
			v.Path = path
		}
	}
	if v.Rule = a.tcp.rule(port); v.Rule != nil {
		return v
	}
	for i := range a.http {
		if h := &a.http[i]; h.ports.has(port) && h.match.fits(path, r) {
			v.Rule = h.rule
			return v
		}
	}
	if a.httpPorts.has(port) {
		return Verdict{Reason: RouteDenied}
	}
	return Verdict{Reason: PortDenied}
}

// judgesPaths says whether a rule that is about the port judges paths.
func (a *allowed) judgesPaths(port uint32) bool {
	return slices.ContainsFunc(a.http, func(h httpRule) bool { return h.match.path != nil && h.ports.has(port) })
}
