package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tulle-mesh/tulle/internal/corefile"
)

// strikes is how often in a row a pod that answered before has to fail until it counts as broken.
const strikes = 3

// inPlace is about a block that is where it should be: who serves it, and what if somebody doesn't.
func (m *DNSManager) inPlace(ctx context.Context, k *kept, b corefile.Block) (DNSTarget, time.Duration) {
	h, timing := k.history, m.config.Timing
	if h.Stopped != "" || h.Block != hash(b) { // put there by hand, or by a controller whose record is lost
		*h = dnsHistory{Block: hash(b), Written: time.Now(), Image: h.Image, Cache: h.Cache}
		m.remember(ctx)
	}
	if again, ok := m.tryNewImage(ctx, k, b); ok {
		return again, timing.Poll
	}
	pods, err := m.askAll(ctx, k.target)
	if err != nil {
		return k.state.trouble(err), timing.Poll
	}
	k.state.Pods = states(pods)
	missing := slices.DeleteFunc(slices.Clone(pods), func(p asked) bool { return p.Serves && p.Cluster })
	if len(missing) == 0 && len(pods) > 0 {
		return m.served(ctx, k), timing.Interval
	}
	if m.config.Mode != DNSManage {
		return k.state.in(DNSNotServed, unserved(missing)), timing.Interval
	}
	if h.Verified {
		return k.state.in(DNSNotServed, unserved(missing)), min(timing.Interval, 5*timing.Poll)
	}
	if why := m.broken(ctx, k, pods); why != "" {
		return m.undo(ctx, k, why), timing.Poll
	}
	return m.rollingOut(ctx, k, missing)
}

func (m *DNSManager) served(ctx context.Context, k *kept) DNSTarget {
	if !k.history.Verified {
		k.history.Verified = true
		m.remember(ctx)
		m.config.Log.Info("every pod of the cluster's DNS serves the mesh's zones", "object", k.state.Object, "after", time.Since(k.history.Written).Round(time.Second))
	}
	return k.state.in(DNSServed, "")
}

// rollingOut waits for pods that do not serve the zones yet, and for how long.
func (m *DNSManager) rollingOut(ctx context.Context, k *kept, missing []asked) (DNSTarget, time.Duration) {
	h, timing := k.history, m.config.Timing
	since, reload := h.Written, k.object.reloads()
	if reload == 0 {
		if !m.config.Restart {
			w := k.target.Workload
			return k.state.in(DNSNeedsRestart, fmt.Sprintf("the block is written, but this Corefile has no `reload`, so CoreDNS does not read it before it is restarted: "+
				"kubectl -n %s rollout restart %s/%s, or set dns.restart", w.Namespace, strings.ToLower(w.Kind), w.Name)), 5 * timing.Poll
		}
		if h.Restart.IsZero() {
			if err := m.restart(ctx, k); err != nil {
				return k.state.in(DNSNeedsRestart, err.Error()), timing.Interval
			}
		}
		since = h.Restart
	}
	waited := time.Since(since)
	if waited < timing.Rollout+reload || len(missing) == 0 {
		return k.state.in(DNSPending, "waiting until the block is taken up: "+unserved(missing)), timing.Poll
	}
	if err := m.meshAnswers(ctx, k.servers); err != nil {
		return k.state.in(DNSPending, err.Error()), timing.Poll
	}
	if !slices.ContainsFunc(missing, func(p asked) bool { return p.Cluster }) {
		return k.state.in(DNSNotServed, unserved(missing)), timing.Poll
	}
	return m.undo(ctx, k, fmt.Sprintf("%s after it was written, %s", waited.Round(time.Second), unserved(missing))), timing.Poll
}

func unserved(missing []asked) string {
	if len(missing) == 0 {
		return "no pod of the cluster's DNS is running"
	}
	return fmt.Sprintf("%d pods of the cluster's DNS do not serve the zones, first %s (%s): %s", len(missing), missing[0].Name, missing[0].Address, missing[0].Message)
}

// broken says which pod the change broke: one that answered the cluster's own name before it and fails now again and
// again, or one that crashes since.
func (m *DNSManager) broken(ctx context.Context, k *kept, pods []asked) string {
	for _, p := range pods {
		id := [2]string{k.state.Object, p.Name}
		if p.Cluster {
			m.silent[id] = 0
			continue
		}
		if !slices.Contains(m.before[k.state.Object], p.Name) {
			continue
		}
		if m.silent[id]++; m.silent[id] >= strikes {
			return fmt.Sprintf("pod %s stopped answering for the cluster: %s", p.Name, p.Message)
		}
	}
	all, err := m.config.pods(ctx, k.target)
	if err != nil {
		return ""
	}
	for _, p := range all {
		if why := crashed(p, k.history.Written); why != "" {
			return fmt.Sprintf("pod %s crashes: %s", p.Name, why)
		}
	}
	return ""
}

// crashed says how a container of the pod failed after a time and was not able to start again.
func crashed(p *corev1.Pod, since time.Time) string {
	for _, s := range p.Status.ContainerStatuses {
		end := s.LastTerminationState.Terminated
		if s.State.Waiting == nil || s.State.Waiting.Reason != "CrashLoopBackOff" || end == nil {
			continue
		}
		if end.ExitCode != 0 && end.FinishedAt.After(since) {
			return strings.TrimSpace(fmt.Sprintf("exit code %d %s", end.ExitCode, lastWords(end.Message)))
		}
	}
	return ""
}

// lastWords picks the line of a log's end that says why: CoreDNS writes to two streams, whose order is lost.
func lastWords(log string) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	for _, l := range slices.Backward(lines) {
		if strings.Contains(l, "Error") || strings.Contains(l, "plugin/") && !strings.Contains(l, "[INFO]") {
			return l
		}
	}
	return lines[len(lines)-1]
}

// undo takes the block out, because of why.
func (m *DNSManager) undo(ctx context.Context, k *kept, why string) DNSTarget {
	rest, err := k.object.unpatch(m.config.Namespace)
	if err == nil {
		err = m.config.write(ctx, k.object, rest)
	}
	if err != nil {
		return k.state.in(DNSNotServed, fmt.Sprintf("%s; taking the block out failed: %v", why, err))
	}
	*k.history = dnsHistory{Image: k.history.Image, Cache: k.history.Cache, Bad: m.candidate(k), BadAt: time.Now(), BadWhy: why, Fights: k.history.Fights}
	m.remember(ctx)
	m.config.Log.Warn("the mesh's zones were taken out of the cluster's DNS again", "object", k.state.Object, "err", why)
	return k.state.in(DNSUndone, "the block was taken out again: "+why)
}

// restart rolls the workload, as `kubectl rollout restart` does.
func (m *DNSManager) restart(ctx context.Context, k *kept) error {
	w, now := k.target.Workload, time.Now()
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{
		"annotations": map[string]string{"tulle.dev/restarted-at": now.UTC().Format(time.RFC3339)},
	}}}})
	if err != nil {
		return fmt.Errorf("encode patch: %w", err)
	}
	options := metav1.PatchOptions{FieldManager: dnsFieldManager}
	switch apps := m.config.Client.AppsV1(); w.Kind {
	case "Deployment":
		_, err = apps.Deployments(w.Namespace).Patch(ctx, w.Name, types.StrategicMergePatchType, patch, options)
	default:
		_, err = apps.DaemonSets(w.Namespace).Patch(ctx, w.Name, types.StrategicMergePatchType, patch, options)
	}
	if err != nil {
		return fmt.Errorf("restart %s %s/%s: %w", w.Kind, w.Namespace, w.Name, err)
	}
	k.history.Restart = now
	m.remember(ctx)
	return nil
}
