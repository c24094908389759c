package shadow

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// Plan returns what to write so that the cluster holds the mesh addresses of the topology's units, and nothing else.
// busy are target ports that a proxy could not bind. A plan of a state in which its changes were made is empty, but for
// what Changes.Next announces.
func Plan(cfg Config, t topology.Topology, s State, proxies []Proxy, busy map[PortKey]bool) (Changes, []problem.Problem) {
	cfg.Settle = cmp.Or(cfg.Settle, 10*time.Second)
	cfg.Overlap = cmp.Or(cfg.Overlap, 10*time.Minute)
	cfg.SliceSize = min(cmp.Or(cfg.SliceSize, 100), 1000)
	p := &planner{cfg: cfg, held: index(s), wants: wants(t), book: newBook(busy, cfg.TargetPorts), keep: map[string]bool{}}
	p.own = claimed(p.held.services, p.held.targets, p.book)
	p.endpoints = newEndpoints(cfg.SliceSize, s, proxies)
	for _, w := range p.wants {
		p.unit(w)
	}
	p.shared()
	p.collect(s)
	p.changes.sort()
	return p.changes, p.problems
}

type planner struct {
	cfg       Config
	held      held
	wants     []want
	book      *book
	own       map[string]map[PortKey]int32 // target ports that stay, by shadow Service
	endpoints *endpoints
	keep      map[string]bool // shadow Services that stay or are made
	moving    []want          // units that the shared address serves until their dedicated one is settled
	changes   Changes
	problems  []problem.Problem
}

// unit plans the unit's dedicated Service, if it is to have one.
func (p *planner) unit(w want) {
	if w.shared && !w.http {
		p.problem(w, problem.AddressNotShareable, "a service with a port that is not HTTP has a mesh address of its own: the annotation tulle.dev/address: shared has no effect")
	}
	notes, keep := p.move(w)
	if _, opening := notes[openAnnotation]; opening {
		p.moving = append(p.moving, w)
	}
	if !keep {
		return
	}
	notes[NamespaceAnnotation], notes[ServiceAnnotation] = w.unit.Namespace, w.unit.Name.Name
	if w.unit.Pod != "" {
		notes[PodAnnotation] = w.unit.Pod
	}
	ports := p.targets(w.name, w.ports, func(k PortKey) { p.noTargetPort(w, k) })
	p.service(w.name, KindService, notes, ports)
}

// move says whether the unit has a dedicated Service, and the annotations that it needs while names move between that
// and the shared address.
func (p *planner) move(w want) (notes map[string]string, keep bool) {
	notes = map[string]string{}
	old := p.held.services[w.name]
	if !w.wantsShared(p.cfg.SharedHTTP) {
		p.open(w, old, notes)
		return notes, true
	}
	if old == nil {
		return notes, false
	}
	retire, retiring := at(old, retireAnnotation)
	move, moving := at(old, moveAnnotation)
	ready := p.held.members.has(w) && p.held.served(SharedName, w.ports)
	switch {
	case retiring && (!ready || !p.due(retire)):
		notes[retireAnnotation] = old.Annotations[retireAnnotation]
	case retiring:
		return notes, false
	case !ready: // stay until the shared address is there
	case !serving(old) || moving && p.due(move):
		p.note(notes, retireAnnotation, p.cfg.Overlap)
	case moving:
		notes[moveAnnotation] = old.Annotations[moveAnnotation]
	default:
		p.note(notes, moveAnnotation, p.cfg.Settle)
	}
	return notes, true
}

// open lets names move to a dedicated Service only once it is settled, if the shared address serves them meanwhile.
func (p *planner) open(w want, old *corev1.Service, notes map[string]string) {
	comesFromShared := p.held.members.has(w) && p.held.served(SharedName, w.ports)
	if old == nil {
		if comesFromShared {
			p.note(notes, openAnnotation, p.cfg.Settle)
		}
		return
	}
	when, opening := at(old, openAnnotation)
	settled := opening && p.due(when) && p.held.served(w.name, w.ports)
	if opening && comesFromShared && !settled {
		notes[openAnnotation] = old.Annotations[openAnnotation]
	}
}

// due says whether the time has come; if not, the plan is to be made again then.
func (p *planner) due(when time.Time) bool {
	if !p.cfg.Now.Before(when) {
		return true
	}
	if p.changes.Next.IsZero() || when.Before(p.changes.Next) {
		p.changes.Next = when
	}
	return false
}

func (p *planner) note(notes map[string]string, annotation string, wait time.Duration) {
	// Annotations have whole seconds: round up.
	when := p.cfg.Now.Add(wait + time.Second - 1).UTC().Truncate(time.Second)
	notes[annotation] = when.Format(time.RFC3339)
	p.due(when)
}

// targets returns the target ports of a shadow Service's ports: what it has stays, if it may.
func (p *planner) targets(name string, ports []PortKey, exhausted func(PortKey)) map[PortKey]int32 {
	out := make(map[PortKey]int32, len(ports))
	for _, k := range ports {
		if target, ok := p.own[name][k]; ok {
			out[k] = target
		} else if target, ok := p.book.assign(name, k); ok {
			out[k] = target
		} else {
			exhausted(k)
		}
	}
	return out
}

func (p *planner) noTargetPort(w want, k PortKey) {
	p.problem(w, problem.NoTargetPort, noTargetPort(k, p.cfg.TargetPorts))
}

func noTargetPort(k PortKey, within Range) string {
	if within != (Range{}) {
		return fmt.Sprintf("port %d has no mesh address: all target ports of the range %d-%d are taken", k.Number, within.First, within.Last)
	}
	return fmt.Sprintf("port %d has no mesh address: all target ports of the mesh are taken", k.Number)
}

func (p *planner) problem(w want, reason problem.Reason, message string) {
	p.problems = append(p.problems, problem.Problem{
		Object:  problem.Ref{APIVersion: "v1", Kind: "Service", Namespace: w.unit.Namespace, Name: w.unit.Name.Name},
		Reason:  reason,
		Message: message,
	})
}

// collect deletes what no unit wants.
func (p *planner) collect(s State) {
	for _, svc := range s.Services {
		if !p.keep[svc.Name] && svc.DeletionTimestamp == nil {
			p.changes.DeleteServices = append(p.changes.DeleteServices, svc)
		}
	}
	for _, sl := range s.Slices {
		known := sl.AddressType == discoveryv1.AddressTypeIPv4 || sl.AddressType == discoveryv1.AddressTypeIPv6
		if !known || !p.keep[sl.Labels[discoveryv1.LabelServiceName]] {
			p.changes.DeleteSlices = append(p.changes.DeleteSlices, sl)
		}
	}
}

func (c *Changes) sort() {
	for _, list := range [][]*corev1.Service{c.CreateServices, c.UpdateServices, c.DeleteServices} {
		slices.SortFunc(list, func(a, b *corev1.Service) int { return strings.Compare(a.Name, b.Name) })
	}
	for _, list := range [][]*discoveryv1.EndpointSlice{c.CreateSlices, c.UpdateSlices, c.DeleteSlices} {
		slices.SortFunc(list, func(a, b *discoveryv1.EndpointSlice) int { return strings.Compare(a.Name, b.Name) })
	}
}
