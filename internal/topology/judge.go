package topology

import (
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/smi"
)

// Judge says what would be wrong with a decoded SMI object beside the others, if it were among them or in the place of the
// one of its name. It looks at the object's namespace only, which is all that such an object refers to.
func Judge(c Config, r Resources, object any) []problem.Problem {
	meta := metaOf(object)
	if meta.Ref.Name == "" {
		return nil
	}
	ns := meta.Ref.Namespace
	r.Services, r.EndpointSlices, r.Pods = in(ns, r.Services), in(ns, r.EndpointSlices), in(ns, r.Pods)
	r.ServiceAccounts = in(ns, r.ServiceAccounts)
	same := func(m smi.Meta) bool { return m.Ref.Name == meta.Ref.Name }
	s := r.SMI
	r.SMI = smi.Objects{
		TrafficSplits:   others(ns, s.TrafficSplits, func(o *smi.TrafficSplit) smi.Meta { return o.Meta }, is[smi.TrafficSplit](object), same),
		HTTPRouteGroups: others(ns, s.HTTPRouteGroups, func(o *smi.HTTPRouteGroup) smi.Meta { return o.Meta }, is[smi.HTTPRouteGroup](object), same),
		TCPRoutes:       others(ns, s.TCPRoutes, func(o *smi.TCPRoute) smi.Meta { return o.Meta }, is[smi.TCPRoute](object), same),
		UDPRoutes:       others(ns, s.UDPRoutes, func(o *smi.UDPRoute) smi.Meta { return o.Meta }, is[smi.UDPRoute](object), same),
		TrafficTargets:  others(ns, s.TrafficTargets, func(o *smi.TrafficTarget) smi.Meta { return o.Meta }, is[smi.TrafficTarget](object), same),
	}
	r.SMI.Add(dated(object))
	r.SMI.Sort()
	about := func(p problem.Problem) bool {
		return p.Object.Kind == meta.Ref.Kind && p.Object.Namespace == ns && p.Object.Name == meta.Ref.Name
	}
	r.Undecodable = slices.DeleteFunc(slices.Clone(r.Undecodable), func(p problem.Problem) bool { return p.Object.Namespace != ns || about(p) })
	_, problems := Build(c, r)
	return slices.DeleteFunc(problems, func(p problem.Problem) bool { return !about(p) })
}

// in leaves out the objects of other namespaces.
func in[T interface{ GetNamespace() string }](namespace string, list []T) []T {
	var out []T
	for _, o := range list {
		if o.GetNamespace() == namespace {
			out = append(out, o)
		}
	}
	return out
}

// others leaves out the objects of other namespaces, and the one that is to be replaced.
func others[T any](namespace string, list []T, meta func(*T) smi.Meta, ofKind bool, same func(smi.Meta) bool) []T {
	var out []T
	for i := range list {
		if m := meta(&list[i]); m.Ref.Namespace == namespace && (!ofKind || !same(m)) {
			out = append(out, list[i])
		}
	}
	return out
}

func is[T any](object any) bool { _, ok := object.(T); return ok }

func metaOf(object any) smi.Meta {
	switch o := object.(type) {
	case smi.TrafficSplit:
		return o.Meta
	case smi.HTTPRouteGroup:
		return o.Meta
	case smi.TCPRoute:
		return o.Meta
	case smi.UDPRoute:
		return o.Meta
	case smi.TrafficTarget:
		return o.Meta
	}
	return smi.Meta{}
}

// dated makes an object that does not exist yet the youngest.
func dated(object any) any {
	const never = 1 << 40
	switch o := object.(type) {
	case smi.TrafficSplit:
		if o.Created.IsZero() {
			o.Created = time.Unix(never, 0).UTC()
		}
		return o
	case smi.TrafficTarget:
		if o.Created.IsZero() {
			o.Created = time.Unix(never, 0).UTC()
		}
		return o
	}
	return object
}
