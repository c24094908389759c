package check

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/internal/firsthop"
)

// hops is what pods of the mesh found out by calling the proxies. Its findings are a function of it.
type hops struct {
	local  bool              // the proxies are reached by internalTrafficPolicy Local, not by preference
	nodes  map[string]string // of the proxies, by pod
	steady map[string]bool   // nodes with a proxy, and none that comes or goes: calls from others may cross nodes
	askers []asker
}

// asker is a pod that called. A proxy's calls say where calls from its node end, but nothing of source addresses: what
// calls itself through a Service is always masqueraded. The controllers are callers like any other.
type asker struct {
	pod, node string
	proxy     bool
	answers   []firsthop.Answer
	err       error // it could not be made to call
}

func newHops(pods []corev1.Pod, local bool) *hops {
	h := &hops{local: local, nodes: map[string]string{}, steady: map[string]bool{}}
	for _, p := range pods {
		proxy, works := p.Labels["app.kubernetes.io/component"] == "proxy", ready(p)
		if proxy {
			h.nodes[p.Name] = p.Spec.NodeName
			steady, seen := h.steady[p.Spec.NodeName]
			h.steady[p.Spec.NodeName] = works && (steady || !seen)
		}
		if works {
			h.askers = append(h.askers, asker{pod: p.Name, node: p.Spec.NodeName, proxy: proxy})
		}
	}
	maps.DeleteFunc(h.steady, func(_ string, steady bool) bool { return !steady })
	return h
}

func ready(p corev1.Pod) bool {
	return p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func (h *hops) findings() []Finding {
	out := h.unasked()
	if !slices.ContainsFunc(h.askers, func(a asker) bool { return a.err == nil }) {
		return out
	}
	return slices.Concat(out, h.silence(), h.ends(), h.sources())
}

func (h *hops) unasked() []Finding {
	var pods []string
	var why error
	for _, a := range h.askers {
		if a.err != nil {
			pods, why = append(pods, a.pod), a.err
		}
	}
	if pods == nil {
		return nil
	}
	return []Finding{{Level: Note, Message: fmt.Sprintf("could not have %d pods call the proxies (%s): %v", len(pods), some(pods), why), Next: "check again; pods of an older version need `tulle upgrade`"}}
}

// silence is about controllers that get no answer. A proxy's silence says less: not every network lets a pod call itself.
func (h *hops) silence() []Finding {
	var out []Finding
	for _, a := range h.askers {
		if a.proxy || h.local && !h.steady[a.node] {
			continue
		}
		if where, why := silent(a.answers); where != nil {
			out = append(out, Finding{
				Level: Failed, Message: fmt.Sprintf("controller %s on %s calls the proxies at %s and gets no answer: %s", a.pod, a.node, strings.Join(where, ", "), why),
				Next: "look at that node's kube-proxy (or what stands in for it) and at NetworkPolicies: docs/runbook.md, first hop",
			})
		}
	}
	return out
}

// silent lists what never answered, and one reason.
func silent(answers []firsthop.Answer) (where []string, why string) {
	name := func(a firsthop.Answer) string { return a.Server + "/" + a.Network }
	answered := map[string]bool{}
	for _, a := range answers {
		answered[name(a)] = answered[name(a)] || a.Error == ""
	}
	for _, a := range answers {
		if !answered[name(a)] && !slices.Contains(where, name(a)) {
			where, why = append(where, name(a)), a.Error
		}
	}
	return where, why
}

// ends says where calls end: at the proxy of the caller's own node, or of another.
func (h *hops) ends() []Finding {
	calls, strays := map[string]int{}, map[string]int{}
	for _, a := range h.askers {
		for _, answer := range a.answers {
			node, known := h.nodes[answer.Pod]
			if answer.Error != "" || !known || !h.steady[a.node] {
				continue
			}
			calls[a.node]++
			if node != a.node {
				strays[a.node]++
			}
		}
	}
	var out []Finding
	switch {
	case len(strays) > 0:
		out = append(out, Finding{
			Level:   Failed,
			Message: fmt.Sprintf("calls leave their node: from %d of %d nodes (%s), %d of %d calls ended at the proxy of another", len(strays), len(h.steady), some(keys(strays)), total(strays), total(calls)),
			Next:    h.stay(),
		})
	case len(calls) > 0:
		out = append(out, Finding{Level: OK, Message: fmt.Sprintf("calls from %d of %d nodes end at the proxy of their own node (%d of %d calls)", len(calls), len(h.steady), total(calls), total(calls))})
	}
	unknown := slices.DeleteFunc(keys(h.steady), func(node string) bool { return calls[node] > 0 })
	if len(unknown) > 0 {
		out = append(out, Finding{
			Level: Note, Message: fmt.Sprintf("whether calls stay on their node isn't known of %d of %d nodes: %s", len(unknown), len(h.steady), some(unknown)),
			Next: "the proxies there got no answer from themselves, which not every network allows and applications don't need; docs/runbook.md, first hop, has a way to ask from any pod",
		})
	}
	return out
}

// stay says what to do about calls that leave their node.
func (h *hops) stay() string {
	if h.local {
		return "the network ignores internalTrafficPolicy: Local, or has not followed yet: docs/runbook.md, first hop"
	}
	return "set addresses.firstHop=local, or have the network heed trafficDistribution (Cilium: loadBalancer.serviceTopology=true): docs/runbook.md, first hop"
}

// sources says whether proxies see callers' own addresses.
func (h *hops) sources() []Finding {
	asked, hidden := map[string]bool{}, map[string]bool{}
	for _, a := range h.askers {
		for _, answer := range a.answers {
			if answer.Error != "" || answer.Pod == a.pod {
				continue
			}
			asked[a.node] = true
			if answer.Client != answer.Source {
				hidden[fmt.Sprintf("%s on %s is seen as %s", answer.Source, a.node, answer.Client)] = true
			}
		}
	}
	switch {
	case len(hidden) > 0:
		return []Finding{{
			Level: Failed, Message: "the mesh doesn't see who calls: " + some(keys(hidden)),
			Next: "pods' addresses must stay as they are on the way to ClusterIPs: kube-proxy without masqueradeAll and with the pods' ranges as clusterCIDR, a network plugin that doesn't masquerade between pods: docs/runbook.md, first hop",
		}}
	case len(asked) > 0:
		return []Finding{{Level: OK, Message: fmt.Sprintf("the mesh sees callers' own addresses (called from %d nodes: %s)", len(asked), some(keys(asked)))}}
	}
	return []Finding{{Level: Note, Message: "whether the mesh sees callers' own addresses isn't known: no controller got an answer", Next: "check again when the controllers are ready"}}
}

func keys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func total(m map[string]int) int {
	n := 0
	for _, v := range m {
		n += v
	}
	return n
}
