package kube

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/corefile"
)

// trialName is what a trial's pod and ConfigMap are called, in the mesh's namespace.
const trialName = "tulle-dns-trial"

// inconclusiveError is a trial that says nothing about the configuration.
type inconclusiveError struct{ why string }

func (e *inconclusiveError) Error() string { return e.why }

// try returns the object with the block in the richest form that the cluster's DNS starts with.
func (m *DNSManager) try(ctx context.Context, k *kept) (dnsObject, corefile.Block, error) {
	plain := m.block(k, false)
	if !m.triable(k) {
		next, err := k.object.patch(plain)
		return next, plain, err
	}
	var failed error
	for _, b := range []corefile.Block{m.block(k, true), plain} {
		next, err := k.object.patch(b)
		if err != nil {
			return next, b, err
		}
		if failed = m.start(ctx, k, next, true); failed == nil {
			k.history.Image, k.history.Cache = k.image(), b.Cache
			return next, b, nil
		}
		if _, ok := errors.AsType[*inconclusiveError](failed); ok {
			return next, b, fmt.Errorf("the new configuration could not be tried (%w), so nothing was changed; set dns.trial to false to do without", failed)
		}
	}
	rest, err := k.object.unpatch(m.config.Namespace)
	if err == nil {
		err = m.start(ctx, k, rest, false)
	}
	if err != nil {
		return rest, plain, fmt.Errorf("the cluster's DNS configuration does not start in a trial even without the mesh's zones, so nothing was changed (%w); "+
			"correct it, or, if it needs what a trial lacks, set dns.trial to false", failed)
	}
	return rest, plain, fmt.Errorf("the cluster's DNS does not start with the mesh's zones, so nothing was changed: %w", failed)
}

// triable is true if there is something that can be started in a pod.
func (m *DNSManager) triable(k *kept) bool {
	return !m.config.NoTrial && (k.target.Kind == corefile.Corefile || k.target.Kind == corefile.Custom)
}

// container is the one that reads the Corefile.
func (k *kept) container() *corev1.Container {
	spec := &k.target.Workload.Spec
	for i, c := range spec.Containers {
		for _, m := range c.VolumeMounts {
			if v := volume(spec, m.Name); v != nil && v.ConfigMap != nil && v.ConfigMap.Name == k.target.Main.Name {
				return &spec.Containers[i]
			}
		}
	}
	return &spec.Containers[0]
}

func (k *kept) image() string {
	if len(k.target.Workload.Spec.Containers) == 0 {
		return ""
	}
	return k.container().Image
}

// tryNewImage makes sure that a block that is in place also starts with an image that came later. It returns false if
// there is nothing to do.
func (m *DNSManager) tryNewImage(ctx context.Context, k *kept, b corefile.Block) (DNSTarget, bool) {
	if m.config.Mode != DNSManage || !m.triable(k) || k.history.Image == k.image() {
		return DNSTarget{}, false
	}
	if k.history.Image == "" { // nothing is known: what runs, runs
		k.history.Image, k.history.Cache = k.image(), b.Cache
		m.remember(ctx)
		return DNSTarget{}, false
	}
	next, now, err := m.try(ctx, k)
	if err != nil {
		return DNSTarget{}, false // of a trial that fails anyway, the block is not the cause
	}
	if m.remember(ctx); k.object.same(next) {
		return DNSTarget{}, false
	}
	if err := m.config.write(ctx, k.object, next); err != nil {
		return k.state.in(DNSPending, err.Error()), true
	}
	m.note(k, now, nil)
	m.remember(ctx)
	return k.state.in(DNSPending, "the image of the cluster's DNS has changed; the block was written again to fit it"), true
}

// failedTrial is not repeated for a while.
type failedTrial struct {
	err   error
	until time.Time
}

// start runs the cluster's DNS with the object in a pod of its own. What passed or failed lately is not tried again.
func (m *DNSManager) start(ctx context.Context, k *kept, o dnsObject, withBlock bool) error {
	id := hash(k.image(), k.target.Port, o.texts())
	if m.passed == id {
		return nil
	}
	if f, ok := m.failed[id]; ok && time.Now().Before(f.until) {
		return f.err
	}
	trying, cancel := context.WithTimeout(ctx, m.config.Timing.TrialStart+m.config.Timing.TrialAnswer+10*time.Second)
	defer cancel()
	err := m.config.dropTrial(trying)
	if err == nil {
		err = m.runTrial(trying, k, o, withBlock)
	}
	cleaning, done := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer done()
	if drop := m.config.dropTrial(cleaning); drop != nil {
		m.config.Log.Warn("a trial's pod could not be removed", "err", drop)
	}
	switch {
	case err == nil && withBlock:
		m.passed = id
	case err != nil && ctx.Err() == nil:
		after := m.config.Timing.Retry
		if _, ok := errors.AsType[*inconclusiveError](err); ok {
			after /= 10
		}
		m.failed[id] = failedTrial{err: err, until: time.Now().Add(after)}
	}
	m.config.Log.Info("a configuration of the cluster's DNS was tried", "with_block", withBlock, "err", err)
	return err
}

func (m *DNSManager) runTrial(ctx context.Context, k *kept, o dnsObject, withBlock bool) error {
	cm, pod, err := m.trialObjects(ctx, k, o)
	if err != nil {
		return &inconclusiveError{err.Error()}
	}
	core := m.config.Client.CoreV1()
	if err := m.config.applyConfigMap(ctx, cm); err != nil {
		return &inconclusiveError{fmt.Sprintf("create ConfigMap %s: %v", trialName, err)}
	}
	if err := m.config.applyPod(ctx, pod); err != nil {
		return &inconclusiveError{fmt.Sprintf("create Pod %s: %v", trialName, err)}
	}
	t := trial{started: time.Now()}
	for pause(ctx, m.config.Timing.Poll/4) {
		p, err := core.Pods(pod.Namespace).Get(ctx, trialName, metav1.GetOptions{})
		if err != nil {
			return &inconclusiveError{fmt.Sprintf("read Pod %s: %v", trialName, err)}
		}
		if done, err := m.judge(ctx, k, p, &t, withBlock); done {
			return err
		}
	}
	return &inconclusiveError{"its pod does not start"}
}

// trial is what was seen of one.
type trial struct {
	started, running time.Time
	answered         error // the last answer that was not the mesh's
}

// judge says whether a trial is over and how it ended. The mesh's answer is the proof. A pod that cannot be reached from
// here, and one that runs the configuration without the block, pass when they have kept running for a while.
func (m *DNSManager) judge(ctx context.Context, k *kept, p *corev1.Pod, t *trial, withBlock bool) (bool, error) {
	if why := trialEnd(p); why != "" {
		return true, errors.New(why)
	}
	ip, err := netip.ParseAddr(p.Status.PodIP)
	if p.Status.Phase != corev1.PodRunning || err != nil {
		if time.Since(t.started) > m.config.Timing.TrialStart {
			return true, &inconclusiveError{"its pod does not start" + waitingFor(p)}
		}
		return false, nil
	}
	if t.running.IsZero() {
		t.running = time.Now()
	}
	zone := m.config.Zones[0]
	err = m.config.Ask.probe(ctx, netip.AddrPortFrom(ip, uint16(k.target.Port)), zone)
	if _, is := errors.AsType[*answerError](err); is {
		if t.answered = err; !withBlock {
			return true, nil
		}
	}
	switch over := time.Since(t.running) > m.config.Timing.TrialAnswer; {
	case err == nil:
		return true, nil
	case !over:
		return false, nil
	case t.answered != nil:
		return true, fmt.Errorf("zone %s: %w", zone, t.answered)
	}
	return true, nil
}

// trialEnd says how a trial's pod ended, "" if it has not.
func trialEnd(p *corev1.Pod) string {
	for _, s := range p.Status.ContainerStatuses {
		if e := s.State.Terminated; e != nil {
			return strings.TrimSpace(fmt.Sprintf("it ends with code %d: %s", e.ExitCode, lastWords(e.Message)))
		}
	}
	if p.Status.Phase == corev1.PodFailed {
		return strings.TrimSpace("its pod failed: " + p.Status.Reason + " " + p.Status.Message)
	}
	return ""
}

// waitingFor says what keeps a pod from running.
func waitingFor(p *corev1.Pod) string {
	for _, s := range p.Status.ContainerStatuses {
		if w := s.State.Waiting; w != nil && w.Reason != "ContainerCreating" {
			return ": " + strings.TrimSpace(w.Reason+" "+w.Message)
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Status != corev1.ConditionTrue && c.Message != "" {
			return ": " + c.Message
		}
	}
	return ""
}

// dropTrial removes what a trial made, and waits until it is gone.
func (a DNSAccess) dropTrial(ctx context.Context) error {
	core, now := a.Client.CoreV1(), int64(0)
	err := core.Pods(a.Namespace).Delete(ctx, trialName, metav1.DeleteOptions{GracePeriodSeconds: &now})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete Pod %s: %w", trialName, err)
	}
	if err := core.ConfigMaps(a.Namespace).Delete(ctx, trialName, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete ConfigMap %s: %w", trialName, err)
	}
	for {
		_, err := core.Pods(a.Namespace).Get(ctx, trialName, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err != nil:
			return fmt.Errorf("read Pod %s: %w", trialName, err)
		case !pause(ctx, 200*time.Millisecond):
			return fmt.Errorf("wait for Pod %s to go: %w", trialName, ctx.Err())
		}
	}
}

// pause waits; false if ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
