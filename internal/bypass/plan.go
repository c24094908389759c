package bypass

import (
	"maps"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/tulle-mesh/tulle/internal/topology"
)

// Changes make the cluster's NetworkPolicies what a Result wants. Updates and deletions carry what is known of the object.
type Changes struct {
	Create, Update, Delete []*networkingv1.NetworkPolicy
}

// Empty says that there is nothing to do.
func (c Changes) Empty() bool { return len(c.Create)+len(c.Update)+len(c.Delete) == 0 }

// Plan compares what is wanted with what is there. It touches nothing but what the mesh of the namespace wrote.
func Plan(mesh string, wanted, have []*networkingv1.NetworkPolicy) Changes {
	var out Changes
	ours := map[topology.Name]*networkingv1.NetworkPolicy{}
	for _, p := range have {
		if Ours(p, mesh) {
			ours[topology.Name{Namespace: p.Namespace, Name: p.Name}] = p
		}
	}
	keep := map[topology.Name]bool{}
	for _, want := range wanted {
		name := topology.Name{Namespace: want.Namespace, Name: want.Name}
		keep[name] = true
		old := ours[name]
		switch {
		case old == nil:
			out.Create = append(out.Create, want)
		case old.DeletionTimestamp == nil && !same(old, want):
			next := old.DeepCopy()
			next.Spec = *want.Spec.DeepCopy()
			next.Annotations = merged(old.Annotations, want.Annotations)
			out.Update = append(out.Update, next)
		}
	}
	for _, p := range have {
		if Ours(p, mesh) && p.DeletionTimestamp == nil && !keep[topology.Name{Namespace: p.Namespace, Name: p.Name}] {
			out.Delete = append(out.Delete, p)
		}
	}
	return out
}

func same(old, want *networkingv1.NetworkPolicy) bool {
	for key, value := range want.Annotations {
		if old.Annotations[key] != value {
			return false
		}
	}
	return equality.Semantic.DeepEqual(old.Spec, want.Spec)
}

func merged(old, ours map[string]string) map[string]string {
	out := make(map[string]string, len(old)+len(ours))
	maps.Copy(out, old)
	maps.Copy(out, ours)
	return out
}
