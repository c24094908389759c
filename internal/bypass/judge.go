package bypass

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/tulle-mesh/tulle/internal/topology"
)

// reasons are different ones, each with how often it came up.
type reasons map[string]int

func (r reasons) add(format string, args ...any) { r[fmt.Sprintf(format, args...)]++ }

// most is how many reasons are named.
const most = 4

func (r reasons) list() []string {
	all := slices.Sorted(maps.Keys(r))
	if len(all) > most {
		all = append(all[:most], fmt.Sprintf("and %d more", len(all)-most))
	}
	return all
}

// judge finds out what all policies together admit to the ports of a workload.
func (b *builder) judge(w *Workload, served map[topology.Name][]Port, open reasons) {
	except := map[string]bool{}
	nodes := map[string]bool{}
	for _, name := range slices.SortedFunc(maps.Keys(served), topology.Name.Compare) {
		pod := b.byName[name]
		u := union{builder: b, pod: pod, policies: b.selecting(pod)}
		for _, port := range served[name] {
			u.judge(port, open, except)
		}
		if node := pod.Spec.NodeName; node != "" && !nodes[node] && !u.prober {
			nodes[node] = true
			w.Targets = append(w.Targets, targetsOf(pod, served[name])...)
		} else if node != "" {
			nodes[node] = true
		}
	}
	w.Except = slices.Sorted(maps.Keys(except))
	w.Nodes = slices.Sorted(maps.Keys(nodes))
	b.judgeUDP(w, open)
}

// judgeUDP counts UDP as open where pods may send with the proxies' addresses.
func (b *builder) judgeUDP(w *Workload, open reasons) {
	if b.AntiSpoofing || b.forgers.count == 0 || !slices.ContainsFunc(w.Ports, func(p Port) bool { return p.UDP }) {
		return
	}
	open.add("UDP: pods that may forge source addresses (NET_RAW), such as %s of %d, unless the network prevents it (bypass.antiSpoofing)", b.forgers.example, b.forgers.count)
}

// targetsOf are the pod's addresses with its TCP ports. What listens to UDP does not say so.
func targetsOf(p *corev1.Pod, ports []Port) []Target {
	var out []Target
	for _, a := range addresses(p) {
		for _, port := range ports {
			if !port.UDP {
				out = append(out, Target{Pod: nameOf(p), Node: p.Spec.NodeName, Address: netip.AddrPortFrom(a, uint16(port.Number))})
			}
		}
	}
	return out
}

// union is what the policies that select a pod admit together.
type union struct {
	*builder
	pod      *corev1.Pod
	policies []*networkingv1.NetworkPolicy
	prober   bool // whoever tries is admitted
}

func (u *union) judge(port Port, open reasons, except map[string]bool) {
	if len(u.policies) == 0 {
		open.add("no NetworkPolicy closes %s", port)
		return
	}
	for _, policy := range u.policies {
		for _, rule := range policy.Spec.Ingress {
			if opens(rule.Ports, u.pod, port) {
				u.rule(policy, rule, port, open, except)
			}
		}
	}
}

func (u *union) rule(policy *networkingv1.NetworkPolicy, rule networkingv1.NetworkPolicyIngressRule, port Port, open reasons, except map[string]bool) {
	by := " (NetworkPolicy " + policy.Name + ")"
	if len(rule.From) == 0 {
		open.add("everybody is admitted to %s%s", port, by)
		u.prober = true
		return
	}
	for _, peer := range rule.From {
		u.prober = u.prober || u.admitsProber(peer)
		switch kind, text := u.classify(policy.Namespace, peer); kind {
		case nobody, proxies:
		case anybody:
			open.add("%s are admitted to %s%s", text, port, by)
		case certain:
			if !Ours(policy, u.Namespace) {
				text += by
			}
			except[text] = true
		}
	}
}

// String is "TCP port 80".
func (p Port) String() string { return fmt.Sprintf("%s port %d", p.protocol(), p.Number) }

// State is what is known about the way around the mesh.
type State string

// The states.
const (
	Enforced       State = "Enforced"
	EnforcedExcept State = "EnforcedExcept"
	Bypassable     State = "Bypassable"
)

// Evidence is what trying showed, from a pod that is none of the proxies.
type Evidence struct {
	// Engines says of each node whether NetworkPolicies hold there: empty if they do, else why not, or why that is not
	// known. A node that is not in it has not been tried.
	Engines map[string]string
	// Reached are the Targets that were reached although no NetworkPolicy admits that.
	Reached map[netip.AddrPort]bool
	// Tried are those that were tried.
	Tried map[netip.AddrPort]bool
}

// Judge is the state of a workload, given what trying showed, and why it is bypassable.
func (w *Workload) Judge(e Evidence) (State, []string) {
	why := slices.Clone(w.Open)
	if len(why) == 0 {
		why = w.disproved(e)
	}
	switch {
	case len(why) > 0:
		return Bypassable, why
	case len(w.Except) > 0:
		return EnforcedExcept, nil
	}
	return Enforced, nil
}

// disproved says why closed policies do not mean that the way is closed.
func (w *Workload) disproved(e Evidence) []string {
	r := reasons{}
	for _, node := range w.Nodes {
		if why, tried := e.Engines[node]; !tried {
			r.add("it has not been tried yet whether NetworkPolicies hold on %s", node)
		} else if why != "" {
			r.add("%s", why)
		}
	}
	for _, t := range w.Targets {
		switch {
		case e.Reached[t.Address]:
			r.add("%s of %s was reached although no NetworkPolicy admits it", Port{int32(t.Address.Port()), false}, t.Pod.Name)
		case !e.Tried[t.Address] && len(r) == 0:
			r.add("it has not been tried yet")
		}
	}
	return r.list()
}

// Text is a state for people.
func Text(s State, why, except []string) string {
	switch s {
	case EnforcedExcept:
		return "Enforced except " + strings.Join(except, ", ")
	case Bypassable:
		return "Bypassable: " + strings.Join(why, "; ")
	case Enforced:
	}
	return string(s)
}
