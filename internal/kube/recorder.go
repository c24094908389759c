package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/status"
)

// Recorder is a controller.Recorder: it keeps the ConfigMap that package status describes. Every writer patches keys of
// its own, so that none needs to know what the others write.
type Recorder struct {
	Client    kubernetes.Interface
	Namespace string // the mesh's
	Source    *Source
}

// RecordLeader writes the leader's document, and takes out those of replicas that are gone.
func (r *Recorder) RecordLeader(ctx context.Context, l status.Leader) error {
	doc, compressed, err := status.EncodeLeader(l)
	if err != nil {
		return err
	}
	p := newPatch()
	p.set(status.LeaderKey, doc, compressed)
	for _, key := range r.Source.stateMap().keys {
		if pod, ok := replicaOf(strings.TrimSuffix(key, status.Compressed)); ok && !r.Source.exists(pod) {
			p.remove(status.ReplicaKey(pod))
		}
	}
	return r.write(ctx, p)
}

// RecordReplica writes this replica's document.
func (r *Recorder) RecordReplica(ctx context.Context, s status.Replica) error {
	doc, compressed, err := status.Encode(s)
	if err != nil {
		return err
	}
	p := newPatch()
	p.set(status.ReplicaKey(s.Pod), doc, compressed)
	return r.write(ctx, p)
}

func (r *Recorder) write(ctx context.Context, p patch) error {
	body, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	maps := r.Client.CoreV1().ConfigMaps(r.Namespace)
	_, err = maps.Patch(ctx, status.ConfigMap, types.MergePatchType, body, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		err = makeConfigMap(ctx, r.Client, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: status.ConfigMap, Labels: ourLabels()}})
		if err == nil {
			_, err = maps.Patch(ctx, status.ConfigMap, types.MergePatchType, body, metav1.PatchOptions{})
		}
	}
	if err != nil {
		return fmt.Errorf("write ConfigMap %s: %w", status.ConfigMap, err)
	}
	return nil
}

// ourLabels are of everything that the controller makes for itself.
func ourLabels() map[string]string {
	return map[string]string{
		"app.kubernetes.io/name": "tulle", component: "controller", "app.kubernetes.io/managed-by": shadow.ManagedBy,
	}
}

// patch is a JSON merge patch of a ConfigMap; nil takes a key out.
type patch struct {
	Data   map[string]*string `json:"data"`
	Binary map[string][]byte  `json:"binaryData"`
}

func newPatch() patch { return patch{Data: map[string]*string{}, Binary: map[string][]byte{}} }

func (p patch) set(key string, doc []byte, compressed bool) {
	p.remove(key)
	if compressed {
		p.Binary[key+status.Compressed] = doc
	} else {
		text := string(doc)
		p.Data[key] = &text
	}
}

func (p patch) remove(key string) { p.Data[key], p.Binary[key+status.Compressed] = nil, nil }
