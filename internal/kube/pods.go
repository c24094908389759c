package kube

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
)

// Pods knows the cluster's pods: a Source, or, for who needs nothing else of the cluster, a PodSource.
type Pods interface {
	// podLists returns the lists, and a version that changes with them: they may be newer than it says, never older.
	podLists() (split[*corev1.Pod], uint64)
}

func (s *Source) podLists() (split[*corev1.Pod], uint64) {
	return s.pods, s.version.Load() + 1
}

// PodSource watches pods, and keeps of them only where they run, and as whom.
type PodSource struct {
	version atomic.Uint64
	pods    split[*corev1.Pod]
	watcher *watcher
}

// NewPodSource returns a PodSource of a mesh in the namespace; Run starts it.
func NewPodSource(client kubernetes.Interface, namespace string) *PodSource {
	s := &PodSource{}
	changed := func() { s.version.Add(1) }
	s.pods = splitOf(namespace, keepPlace, equal, changed, keepPlace, equal, changed)
	s.watcher = newWatcher("pods", client, client.CoreV1().Pods(""), "", &corev1.Pod{}, s.pods)
	return s
}

// Run watches until ctx ends.
func (s *PodSource) Run(ctx context.Context) error {
	s.watcher.run(ctx)
	return nil
}

// Waiting says why the pods are not known yet; nil if they are.
func (s *PodSource) Waiting() error {
	if s.pods.isSynced() {
		return nil
	}
	if _, err := s.watcher.state(); err != nil {
		return fmt.Errorf("waiting for pods: %w", err)
	}
	return errors.New("waiting for pods")
}

func (s *PodSource) podLists() (split[*corev1.Pod], uint64) {
	return s.pods, s.version.Load() + 1
}

// keepPlace keeps of a pod who it is and where.
func keepPlace(obj any) (*corev1.Pod, bool) {
	p, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, false
	}
	out := &corev1.Pod{ObjectMeta: metaOf(p.ObjectMeta)}
	out.Spec.NodeName, out.Spec.HostNetwork, out.Spec.ServiceAccountName = p.Spec.NodeName, p.Spec.HostNetwork, p.Spec.ServiceAccountName
	out.Status.Phase = p.Status.Phase
	return out, true
}
