package bypass

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/internal/topology"
)

// forgers are the pods that may send datagrams with another's address, unless the network prevents it. A TCP connection
// needs the answers, so it is no use there.
type forgers struct {
	count   int
	example topology.Name // the first by name
}

// add counts a pod. Those on the node's network are left out: the node is trusted, and nothing keeps it from its pods. So
// are the mesh's own.
func (f *forgers) add(mesh string, p *corev1.Pod) {
	if p.Spec.HostNetwork || p.Namespace == mesh || !MayForge(p) {
		return
	}
	if f.count++; f.count == 1 || nameOf(p).Compare(f.example) < 0 {
		f.example = nameOf(p)
	}
}

// MayForge says whether a container of the pod may have the capability NET_RAW, which container runtimes give to all that
// do not drop it.
func MayForge(p *corev1.Pod) bool {
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if hasNetRaw(list[i].SecurityContext) {
				return true
			}
		}
	}
	return len(p.Spec.Containers) == 0 // nothing is known about it
}

func hasNetRaw(s *corev1.SecurityContext) bool {
	if s == nil {
		return true
	}
	if s.Privileged != nil && *s.Privileged || s.Capabilities == nil {
		return true
	}
	for _, c := range s.Capabilities.Add {
		if c == "NET_RAW" || c == "CAP_NET_RAW" || c == "ALL" {
			return true
		}
	}
	for _, c := range s.Capabilities.Drop {
		if c == "NET_RAW" || c == "CAP_NET_RAW" || c == "ALL" {
			return false
		}
	}
	return true
}
