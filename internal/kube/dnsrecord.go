package kube

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tulle-mesh/tulle/internal/status"
)

const (
	// dnsConfigMap, in the mesh's namespace, holds what a new leader has to know, and how things stand.
	dnsConfigMap = status.DNSConfigMap
	recordKey    = "record"
)

// dnsRecord is what was done, by target.
type dnsRecord map[string]*dnsHistory

// dnsHistory is what was done to one target.
type dnsHistory struct {
	Block    string      `json:"block,omitempty"`   // hash of the block that was written last
	Written  time.Time   `json:"written,omitzero"`  // when
	Verified bool        `json:"verified,omitzero"` // every pod served it
	Image    string      `json:"image,omitempty"`   // of the cluster's DNS, that the block was tried with
	Cache    bool        `json:"cache,omitzero"`    // that image knows the block with a cache
	Restart  time.Time   `json:"restart,omitzero"`  // when the workload was restarted for it
	Fights   []time.Time `json:"fights,omitempty"`  // when it was put back, within the window
	Stopped  string      `json:"stopped,omitempty"` // hash of the block that is not put back any more
	Bad      string      `json:"bad,omitempty"`     // hash of the text that had to be undone
	BadAt    time.Time   `json:"badAt,omitzero"`
	BadWhy   string      `json:"badWhy,omitempty"`
}

func (r dnsRecord) of(target string) *dnsHistory {
	if r[target] == nil {
		r[target] = &dnsHistory{}
	}
	return r[target]
}

// readRecord starts afresh if there is none or if it cannot be read.
func (a DNSAccess) readRecord(ctx context.Context, log *slog.Logger) dnsRecord {
	out := dnsRecord{}
	cm, err := a.Client.CoreV1().ConfigMaps(a.Namespace).Get(ctx, dnsConfigMap, metav1.GetOptions{})
	if err == nil && cm.Data[recordKey] != "" {
		err = json.Unmarshal([]byte(cm.Data[recordKey]), &out)
	}
	if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		log.Warn("the record of the cluster DNS cannot be read", "err", err)
	}
	for name, h := range out {
		if h == nil {
			delete(out, name)
		}
	}
	return out
}

// remember writes the record. If that fails, a new leader knows less; it is written with the next change again.
func (m *DNSManager) remember(ctx context.Context) {
	data, err := json.Marshal(m.record)
	if err == nil && string(data) == m.saved {
		return
	}
	if err == nil {
		err = m.config.setKey(ctx, recordKey, string(data))
	}
	if err == nil {
		m.saved = string(data)
	} else if ctx.Err() == nil {
		m.config.Log.Warn("the record of the cluster DNS cannot be written", "err", err)
	}
}

// setKey sets one key of the ConfigMap tulle-dns, which is made if it does not exist.
func (a DNSAccess) setKey(ctx context.Context, key, value string) error {
	maps := a.Client.CoreV1().ConfigMaps(a.Namespace)
	patch, err := json.Marshal(map[string]any{"data": map[string]string{key: value}})
	if err != nil {
		return fmt.Errorf("encode ConfigMap %s: %w", dnsConfigMap, err)
	}
	options := metav1.PatchOptions{FieldManager: dnsFieldManager}
	_, err = maps.Patch(ctx, dnsConfigMap, types.MergePatchType, patch, options)
	if apierrors.IsNotFound(err) {
		// Empty, as two may do so at once, for keys of their own.
		err = a.applyConfigMap(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: dnsConfigMap, Namespace: a.Namespace, Labels: dnsLabels("dns")}})
		if err == nil {
			_, err = maps.Patch(ctx, dnsConfigMap, types.MergePatchType, patch, options)
		}
	}
	if err != nil {
		return fmt.Errorf("write ConfigMap %s/%s: %w", a.Namespace, dnsConfigMap, err)
	}
	return nil
}

// applyConfigMap makes a ConfigMap, or what is left of one its own.
func (a DNSAccess) applyConfigMap(ctx context.Context, cm *corev1.ConfigMap) error {
	return apply(ctx, a.Client.CoreV1().ConfigMaps(cm.Namespace), "ConfigMap", cm.DeepCopy(), dnsApply())
}

// applyPod is applyConfigMap for a pod.
func (a DNSAccess) applyPod(ctx context.Context, p *corev1.Pod) error {
	return apply(ctx, a.Client.CoreV1().Pods(p.Namespace), "Pod", p.DeepCopy(), dnsApply())
}

func dnsApply() metav1.PatchOptions {
	return metav1.PatchOptions{FieldManager: dnsFieldManager, Force: new(true)}
}

func dnsLabels(what string) map[string]string {
	return map[string]string{"app.kubernetes.io/name": "tulle", component: what, "app.kubernetes.io/managed-by": "tulle-controller"}
}

// hash is short and for telling apart only.
func hash(parts ...any) string {
	data, err := json.Marshal(parts)
	if err != nil {
		panic(err) // strings and corefile.Blocks
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}
