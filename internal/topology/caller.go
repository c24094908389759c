package topology

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// callers lists the pods that may call: of all namespaces, also while their init containers run or they are ending.
func (b *builder) callers() []Caller {
	byNode := map[string][]Caller{} // sorting node by node is several times faster than sorting all at once
	total := 0
	for _, p := range b.index.own {
		node := p.pod.Spec.NodeName
		addrs := slices.DeleteFunc(p.addrs, func(a netip.Addr) bool { return b.index.pods[a] != p.pod })
		if node == "" || len(addrs) == 0 {
			continue
		}
		slices.SortFunc(addrs, netip.Addr.Compare)
		byNode[node] = append(byNode[node], Caller{
			Node: node, Addresses: addrs, Namespace: p.pod.Namespace, Pod: p.pod.Name, UID: string(p.pod.UID),
			ServiceAccount: workloadName(p.pod).Name, Workload: workload(p.pod),
		})
		total++
	}
	out := make([]Caller, 0, total)
	for _, node := range slices.Sorted(maps.Keys(byNode)) {
		list := byNode[node]
		slices.SortFunc(list, func(a, b Caller) int {
			return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Pod, b.Pod))
		})
		out = append(out, list...)
	}
	return out
}

// workload is what people know a pod by, e.g. "deployment/web". It stays the same when the pod is replaced, so that a
// metric may carry it.
func workload(p *corev1.Pod) string {
	owner := metav1.GetControllerOfNoCopy(p)
	if owner == nil {
		return "pod/" + p.Name
	}
	kind := strings.ToLower(owner.Kind)
	switch owner.Kind {
	case "ReplicaSet":
		if name, ok := strings.CutSuffix(owner.Name, "-"+p.Labels["pod-template-hash"]); ok {
			return "deployment/" + name
		}
	case "Job":
		// A CronJob names its Jobs by the minute they were due.
		if i := strings.LastIndexByte(owner.Name, '-'); i > 0 && isMinute(owner.Name[i+1:]) {
			return "cronjob/" + owner.Name[:i]
		}
	}
	return kind + "/" + owner.Name
}

func isMinute(s string) bool {
	return len(s) == 8 && strings.Trim(s, "0123456789") == ""
}
