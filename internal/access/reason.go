package access

// Reason is why no rule allows a call: a code that docs/reasons.md explains.
type Reason string

// The reasons.
const (
	NoTarget       Reason = "no-target"        // nobody may call the workload
	SourceDenied   Reason = "source-denied"    // others may, the caller may not
	PortDenied     Reason = "port-denied"      // the caller may, but not on this port or by this protocol
	RouteDenied    Reason = "route-denied"     // the caller may on this port, but not this request
	BadPath        Reason = "bad-path"         // the path that rules are to judge has no canonical form
	UnknownCaller  Reason = "unknown-caller"   // nobody knows who calls
	IdentityStale  Reason = "identity-stale"   // the caller's identity was not confirmed in time
	CallerNotLocal Reason = "caller-not-local" // the caller is of another node
	NoPolicy       Reason = "no-policy"        // the workload is protected, and its policy is not known
)

// Reasons lists them.
func Reasons() []Reason {
	return []Reason{NoTarget, SourceDenied, PortDenied, RouteDenied, BadPath, UnknownCaller, IdentityStale, CallerNotLocal, NoPolicy}
}
