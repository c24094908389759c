package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/push"
)

// Identities is a push.Identities over a cluster. All fields but the cache are required.
type Identities struct {
	Pods      Pods
	Authority *identity.Authority

	mu      sync.Mutex
	version uint64          // of the Pods, of which runs is
	runs    map[string]bool // "node/namespace/account" of the pods that exist
}

// Sign implements push.Identities: an identity is certified to the proxy of a node on which a pod of it runs. Pods on the
// host's network have none, for whoever else is on that network could use it.
func (i *Identities) Sign(_ context.Context, peer push.Peer, namespace, account string, csr []byte) ([][]byte, error) {
	pods, _ := i.Pods.podLists()
	if p, ok := pods.mesh.get(peer.Namespace, peer.Pod); !ok || string(p.UID) != peer.UID || podEnded(p) || p.Spec.NodeName != peer.Node {
		// The watch may be a moment behind with a new pod, but never certify on that chance.
		return nil, fmt.Errorf("proxy %s is not known to run on %s", peer.Pod, peer.Node)
	}
	if !i.runsOn(peer.Node, namespace, account) {
		return nil, fmt.Errorf("%w: no pod of ServiceAccount %s/%s is known to run on node %s", push.ErrDenied, namespace, account, peer.Node)
	}
	chain, err := i.Authority.Sign(csr, namespace, account, peer.Node, time.Now())
	if errors.Is(err, identity.ErrBadRequest) {
		return nil, fmt.Errorf("%w: %w", push.ErrDenied, err)
	}
	return chain, err
}

func (i *Identities) runsOn(node, namespace, account string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if pods, v := i.Pods.podLists(); v != i.version {
		i.version, i.runs = v, census(pods.all())
	}
	return i.runs[place(node, namespace, account)]
}

func census(pods []*corev1.Pod) map[string]bool {
	runs := map[string]bool{}
	for _, p := range pods {
		if p.Spec.NodeName != "" && !p.Spec.HostNetwork && !podEnded(p) {
			runs[place(p.Spec.NodeName, p.Namespace, cmp.Or(p.Spec.ServiceAccountName, "default"))] = true
		}
	}
	return runs
}

// place joins names that have no slash in them.
func place(node, namespace, account string) string { return node + "/" + namespace + "/" + account }
