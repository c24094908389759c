package shadow

import (
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// Offline assigns target ports without a cluster that remembers them: HTTP services share a port for each number, which
// is the number itself, and everything else gets one of the range. A unit's ports depend on its name and on which others
// collide with it. No unit gets an address.
func Offline(t topology.Topology, within Range) (Assigned, []problem.Problem) {
	p := &planner{cfg: Config{TargetPorts: within}, book: newBook(nil, within)}
	out := Assigned{Units: map[Unit]Assignment{}}
	list, shared := wants(t), map[PortKey]int32{}
	for _, w := range list {
		if w.wantsShared(true) {
			for _, k := range w.ports {
				shared[k] = k.Number
				p.book.taken[k] = true
			}
		}
	}
	for _, w := range list {
		a := Assignment{Unit: w.unit, Shared: w.wantsShared(true), TargetPorts: map[PortKey]int32{}}
		if !a.Shared {
			a.TargetPorts = p.targets(w.name, w.ports, func(k PortKey) { p.noTargetPort(w, k) })
		}
		out.Units[w.unit] = a
	}
	for _, k := range sortedKeys(shared) {
		out.Shared = append(out.Shared, SharedPort{Port: k.Number, TargetPort: shared[k]})
	}
	return out, p.problems
}
