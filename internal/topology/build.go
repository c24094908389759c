package topology

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/internal/problem"
)

// Build derives the mesh from the objects. What is wrong with one of them becomes a Problem on it and changes nothing
// else. The Problems are sorted and hold those of Resources.Undecodable, too.
func Build(c Config, r Resources) (Topology, []problem.Problem) {
	b := &builder{config: c, namespaces: newNamespaces(c), resources: r, index: newIndex(c, r), services: map[Name]*Service{}}
	b.access = b.newAccess()
	for _, svc := range r.Services {
		if b.namespaces.meshed(svc.Namespace) && !isAPIServer(svc) {
			b.addService(svc)
		}
	}
	b.addSplits()
	b.addTargets()
	for _, p := range r.Undecodable {
		// What is in no namespace, such as a file or a definition, concerns everybody.
		if p.Object.Namespace == "" || b.namespaces.meshed(p.Object.Namespace) {
			b.problems = append(b.problems, p)
		}
	}
	return b.finish()
}

// builder collects what Build returns.
type builder struct {
	config     Config
	namespaces namespaces
	resources  Resources
	index      index
	services   map[Name]*Service
	pods       []Service // units of single pods
	access     *accessModes
	workloads  []Workload
	exposed    []Exposed
	problems   []problem.Problem
}

func (b *builder) finish() (Topology, []problem.Problem) {
	t := Topology{Services: slices.Grow(b.pods, len(b.services)), Callers: b.callers(), Workloads: b.workloads, Nodes: b.nodes()}
	for _, s := range b.services {
		t.Services = append(t.Services, *s)
	}
	slices.SortFunc(t.Services, func(a, b Service) int {
		return cmp.Or(a.Name.Compare(b.Name), cmp.Compare(a.Pod, b.Pod))
	})
	slices.SortFunc(b.exposed, Exposed.Compare)
	t.Exposed = slices.Compact(b.exposed)
	slices.SortFunc(b.problems, problem.Problem.Compare)
	return t, slices.Compact(b.problems)
}

func (b *builder) report(object problem.Ref, reason problem.Reason, format string, args ...any) {
	b.problems = append(b.problems, problem.Newf(object, reason, format, args...))
}

// namespaces says which namespaces the mesh looks at.
type namespaces struct {
	watched map[string]bool // nil = all
	ignored map[string]bool
}

func newNamespaces(c Config) namespaces {
	n := namespaces{ignored: map[string]bool{c.MeshNamespace: true}}
	for _, name := range c.IgnoreNamespaces {
		n.ignored[name] = true
	}
	if len(c.WatchNamespaces) > 0 {
		n.watched = map[string]bool{}
	}
	for _, name := range c.WatchNamespaces {
		n.watched[name] = true
	}
	return n
}

func (n namespaces) meshed(name string) bool {
	return !n.ignored[name] && (n.watched == nil || n.watched[name])
}

// isAPIServer is true for the Service that every cluster has for its API server. Its endpoints are refused anyway; to
// leave it out keeps a Problem out of every cluster.
func isAPIServer(svc *corev1.Service) bool {
	return svc.Namespace == "default" && svc.Name == "kubernetes"
}

func serviceRef(svc *corev1.Service) problem.Ref {
	return problem.Ref{APIVersion: "v1", Kind: "Service", Namespace: svc.Namespace, Name: svc.Name, UID: string(svc.UID)}
}
