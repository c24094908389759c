package controller

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/status"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// refusal is a resource that a proxy could not use.
type refusal struct {
	pod string
	status.Refusal
}

// refused lists what proxies refuse of the config as it is now: those of this replica, and those that other replicas
// wrote down, which may be a few seconds old.
func (c *Controller) refused(r *round) []refusal {
	var all []refusal
	add := func(p status.Proxy) {
		for _, f := range p.Refused {
			all = append(all, refusal{pod: p.Pod, Refusal: f})
		}
	}
	for _, p := range c.Proxies.Connected() {
		add(p)
	}
	for _, other := range r.snapshot.Replicas {
		for _, p := range other.Proxies {
			add(p)
		}
	}
	if len(all) == 0 {
		return nil
	}
	versions := make(map[configv1.Key]string, len(r.common))
	for _, res := range r.common {
		versions[res.Key] = res.Version
	}
	all = slices.DeleteFunc(all, func(f refusal) bool {
		now, shared := versions[configv1.Key{Type: configv1.TypePrefix + f.Type, Name: f.Name}]
		return shared && now != f.Version
	})
	slices.SortFunc(all, func(a, b refusal) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.pod, b.pod))
	})
	return all
}

// avoid returns the target ports not to assign: those that a proxy cannot bind, and for a while those that one could not.
func (c *Controller) avoid(refused []refusal, now time.Time) map[shadow.PortKey]bool {
	for _, f := range refused {
		if f.BusyPort != 0 && f.BusyPort <= 65535 {
			c.busy[shadow.PortKey{Number: int32(f.BusyPort), UDP: f.BusyUDP}] = now.Add(c.Avoid)
		}
	}
	maps.DeleteFunc(c.busy, func(_ shadow.PortKey, until time.Time) bool { return !now.Before(until) })
	out := make(map[shadow.PortKey]bool, len(c.busy))
	for k := range c.busy {
		out[k] = true
	}
	return out
}

// refusalProblems are those of refusals that do not mend themselves: a busy port is replaced by another.
func refusalProblems(own problem.Ref, refused []refusal) []problem.Problem {
	var out []problem.Problem
	for i := 0; i < len(refused); {
		f, same := refused[i], 0
		for ; i < len(refused) && refused[i].Type == f.Type && refused[i].Name == f.Name && refused[i].Reason == f.Reason; i++ {
			same++
		}
		if f.BusyPort != 0 {
			continue
		}
		where := "proxy " + f.pod
		if same > 1 {
			where += " and others"
		}
		out = append(out, problem.Newf(refusedRef(own, f), problem.RefusedByProxy, "%s: %s", where, f.Reason))
	}
	return out
}

// refusedRef is the object that a resource was made from.
func refusedRef(own problem.Ref, f refusal) problem.Ref {
	switch configv1.TypePrefix + f.Type {
	case configv1.ServiceType, configv1.EndpointsType:
		parts := strings.SplitN(f.Name, "/", 3)
		if len(parts) >= 2 {
			return problem.Ref{APIVersion: "v1", Kind: "Service", Namespace: parts[0], Name: parts[1]}
		}
	case configv1.ProxyType:
		return problem.Ref{APIVersion: "v1", Kind: "Pod", Namespace: own.Namespace, Name: f.pod}
	}
	return own
}

// fillUIDs completes references to Services: Events are found by UID.
func fillUIDs(problems []problem.Problem, r topology.Resources) {
	for i := range problems {
		ref := &problems[i].Object
		if ref.Kind != "Service" || ref.UID != "" {
			continue
		}
		at, ok := slices.BinarySearchFunc(r.Services, ref, func(s *corev1.Service, ref *problem.Ref) int {
			return cmp.Or(cmp.Compare(s.Namespace, ref.Namespace), cmp.Compare(s.Name, ref.Name))
		})
		if ok {
			ref.UID = string(r.Services[at].UID)
		}
	}
}
