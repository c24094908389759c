package shadow

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// OurService says whether a Service of the mesh's namespace belongs into State: by label, or by name, so that one whose
// label somebody took off is corrected and not made a second time.
func OurService(s *corev1.Service) bool {
	return s.Labels[KindLabel] != "" || s.Name == SharedName || isServiceName(s.Name)
}

// OurSlice is OurService for slices.
func OurSlice(s *discoveryv1.EndpointSlice) bool {
	if s.Labels[discoveryv1.LabelManagedBy] == ManagedBy {
		return true
	}
	name, rest, _ := strings.Cut(strings.TrimPrefix(s.Name, "tulle-"), "-")
	of := "tulle-" + name
	return (of == SharedName || isServiceName(of)) && (strings.HasPrefix(rest, "v4-") || strings.HasPrefix(rest, "v6-"))
}

// isServiceName says whether a name is one that ServiceName gives.
func isServiceName(name string) bool {
	hash, ok := strings.CutPrefix(name, "tulle-")
	return ok && len(hash) == hashLength && strings.Trim(hash, "abcdefghijklmnopqrstuvwxyz234567") == ""
}
