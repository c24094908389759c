package topology

import "github.com/tulle-mesh/tulle/internal/problem"

// reportTargets says of every TrafficTarget that it is not enforced: access control is not there yet, and a policy that
// is silently ignored is worse than none.
func (b *builder) reportTargets() {
	for _, t := range b.resources.SMI.TrafficTargets {
		if !b.namespaces.meshed(t.Ref.Namespace) {
			continue
		}
		b.report(t.Ref, problem.NotEnforced, "access control is not enforced by this version of the mesh: nothing is denied")
		if t.Destination.Namespace != t.Ref.Namespace {
			b.report(t.Ref, problem.DestinationElsewhere, "the destination is in the namespace %s; a TrafficTarget has an effect only in its destination's own namespace", problem.Quote(t.Destination.Namespace))
		}
	}
}
