package kube

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/internal/status"
)

// stateMap is the ConfigMap that the controllers write down their state in: what is read of it.
type stateMap struct {
	namespace, name string
	bypass          bool
	replicas        []status.Replica
	keys            []string // of all replicas' documents
}

func (m stateMap) GetNamespace() string { return m.namespace }
func (m stateMap) GetName() string      { return m.name }

// keepState reads what other replicas and people wrote. A document that cannot be read says nothing.
func keepState(obj any) (stateMap, bool) {
	c, ok := obj.(*corev1.ConfigMap)
	if !ok || c.Name != status.ConfigMap {
		return stateMap{}, false
	}
	out := stateMap{namespace: c.Namespace, name: c.Name, bypass: c.Data[status.BypassKey] == status.BypassOn}
	for key, value := range c.Data {
		if pod, ok := replicaOf(key); ok {
			out.add(pod, map[string]string{key: value}, nil)
		}
	}
	for key, value := range c.BinaryData {
		if pod, ok := replicaOf(strings.TrimSuffix(key, status.Compressed)); ok {
			out.add(pod, nil, map[string][]byte{key: value})
		}
	}
	out.keys = append(slices.Collect(maps.Keys(c.Data)), slices.Collect(maps.Keys(c.BinaryData))...)
	slices.Sort(out.keys)
	slices.SortFunc(out.replicas, func(a, b status.Replica) int { return strings.Compare(a.Pod, b.Pod) })
	return out, true
}

func (m *stateMap) add(pod string, data map[string]string, binary map[string][]byte) {
	s, err := status.Decode(data, binary)
	if err == nil && len(s.Replicas) == 1 && s.Replicas[0].Pod == pod {
		m.replicas = append(m.replicas, s.Replicas[0])
	}
}

// replicaOf returns the pod that a key is of.
func replicaOf(key string) (string, bool) {
	pod, ok := strings.CutPrefix(key, status.ReplicaPrefix)
	if !ok {
		return "", false
	}
	return strings.CutSuffix(pod, status.ReplicaSuffix)
}

// same compares what makes a difference to the mesh: the documents themselves change all the time.
func (m stateMap) same(o stateMap) bool {
	return m.bypass == o.bypass && slices.Equal(m.keys, o.keys) && equal(refusals(m.replicas), refusals(o.replicas))
}

func refusals(replicas []status.Replica) map[string][]status.Refusal {
	out := map[string][]status.Refusal{}
	for _, r := range replicas {
		for _, p := range r.Proxies {
			if len(p.Refused) > 0 {
				out[p.Pod] = append(out[p.Pod], p.Refused...)
			}
		}
	}
	return out
}

func (s *Source) stateMap() stateMap {
	m, _ := s.state.get(s.config.Namespace, status.ConfigMap)
	return m
}

// has says whether a document is there, plain or compressed.
func (m stateMap) has(key string) bool {
	_, plain := slices.BinarySearch(m.keys, key)
	_, compressed := slices.BinarySearch(m.keys, key+status.Compressed)
	return plain || compressed
}

func (s *Source) bypass() bool { return s.stateMap().bypass }

// replicas are what the other controllers that exist wrote down.
func (s *Source) replicas() []status.Replica {
	var out []status.Replica
	for _, r := range s.stateMap().replicas {
		if r.Pod != s.config.Pod && s.exists(r.Pod) {
			out = append(out, r)
		}
	}
	return out
}

func (s *Source) exists(pod string) bool {
	p, ok := s.pods.mesh.get(s.config.Namespace, pod)
	return ok && !podEnded(p)
}
