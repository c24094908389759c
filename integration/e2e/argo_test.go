package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// argo: a real Argo Rollouts takes one version through all its steps and the next one through the first, where it is
// aborted, with the objects of docs/flagger.md. Its TrafficSplits are v1alpha1. Without a rootService they refer to
// themselves, which is no more than told.
func argo(t *testing.T, e *env) {
	e.needEmbedded(t)
	program := e.buildArgo(t)
	ns := e.namespace(t, "e2e-argo", "pod-security.kubernetes.io/enforce: restricted")
	e.startArgo(t, program, ns)
	for _, c := range []struct{ what, app, root string }{
		{"with a rootService", "web", "web"},
		{"the stable service is the root", "own", "own-stable"},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			a := &argoApp{shifted: shifted{e: e, namespace: ns, name: c.root, caller: e.clients[0], other: e.clients[1]}, app: c.app}
			a.settle(t)
			a.promote(t)
			a.abort(t)
			if err := e.hasEvent(t, ns, "trafficsplit", a.app, "SelfReference"); (err == nil) != a.refersToItself() {
				t.Errorf("the Event SelfReference: %v", err)
			}
		})
	}
}

// argoApp is an application that Argo Rollouts looks after.
type argoApp struct {
	shifted
	app string
}

func (a *argoApp) refersToItself() bool { return a.name == a.app+"-stable" }

// settle is the beginning: the first version is the stable one and gets all traffic.
func (a *argoApp) settle(t *testing.T) {
	examples := a.e.documented(t)
	for _, s := range examples["Service"] {
		set(t, s, a.namespace, "metadata", "namespace")
		set(t, s, strings.Replace(s.GetName(), "web", a.app, 1), "metadata", "name")
		set(t, s, a.app, "spec", "selector", "app")
		a.e.applyObject(t, s)
	}
	o := examples["Rollout"][0]
	set(t, o, a.namespace, "metadata", "namespace")
	set(t, o, a.app, "metadata", "name")
	set(t, o, a.app, "spec", "selector", "matchLabels", "app")
	set(t, o, a.app+"-stable", "spec", "strategy", "canary", "stableService")
	set(t, o, a.app+"-canary", "spec", "strategy", "canary", "canaryService")
	set(t, o, a.name, "spec", "strategy", "canary", "trafficRouting", "smi", "rootService")
	if a.refersToItself() {
		set(t, o, map[string]any{}, "spec", "strategy", "canary", "trafficRouting", "smi")
	}
	set(t, o, a.template(t, "v1"), "spec", "template")
	a.e.applyObject(t, o)
	a.state(t, "Healthy 4 0")
	a.isSplit(t, 100, 0)
	a.shares(t, map[string]int{"v1": 60})
}

// template is that of the pods of a version.
func (a *argoApp) template(t *testing.T, version string) map[string]any {
	t.Helper()
	var deployment map[string]any
	if err := yaml.Unmarshal([]byte(file(t, "canary-app.yaml", "$NAME", a.app, "$VERSION", version, "$STATUS", "200")), &deployment); err != nil {
		t.Fatal(err)
	}
	template, found, err := unstructured.NestedMap(deployment, "spec", "template")
	if err != nil || !found {
		t.Fatalf("canary-app.yaml has no template: %v", err)
	}
	return template
}

// promote takes v2 from 20 and 50 per cent to all, and no request fails.
func (a *argoApp) promote(t *testing.T) {
	l := a.load(t, "promote-"+a.app)
	a.firstStep(t, "v1", "v2")
	a.patchStatus(t, `{"pauseConditions": null}`)
	a.state(t, "Paused 3 50")
	a.isSplit(t, 50, 50)
	a.shares(t, map[string]int{"v1": 30, "v2": 30})
	a.patchStatus(t, `{"pauseConditions": null}`)
	a.state(t, "Healthy 4 0")
	a.isSplit(t, 100, 0)
	a.shares(t, map[string]int{"v2": 60})
	a.ended(t, l, "v1", "v2")
}

// abort gives v3 20 per cent and takes them back, and no request fails.
func (a *argoApp) abort(t *testing.T) {
	l := a.load(t, "abort-"+a.app)
	a.firstStep(t, "v2", "v3")
	a.patchStatus(t, `{"abort": true}`)
	a.state(t, "Degraded 0 0")
	a.isSplit(t, 100, 0)
	a.shares(t, map[string]int{"v2": 60})
	a.ended(t, l, "v2", "v3")
}

// firstStep deploys a version and waits until it has its first share.
func (a *argoApp) firstStep(t *testing.T, stable, canary string) {
	t.Helper()
	patch, err := yaml.Marshal(map[string]any{"spec": map[string]any{"template": a.template(t, canary)}})
	if err != nil {
		t.Fatal(err)
	}
	a.e.run(t, "-n", a.namespace, "patch", "rollouts.argoproj.io", a.app, "--type=merge", "-p", string(patch))
	a.state(t, "Paused 1 20")
	a.isSplit(t, 80, 20)
	a.shares(t, map[string]int{stable: 48, canary: 12})
}

// patchStatus is what `kubectl argo rollouts promote` and `abort` do.
func (a *argoApp) patchStatus(t *testing.T, status string) {
	t.Helper()
	a.e.run(t, "-n", a.namespace, "patch", "rollouts.argoproj.io", a.app, "--subresource=status", "--type=merge", "-p", `{"status": `+status+`}`)
}

// state waits for a phase, the number of steps that are done, and the canary's weight.
func (a *argoApp) state(t *testing.T, want string) {
	t.Helper()
	a.e.inARow(t, want, 1, rolloutTimeout, func() error { // pods start before it
		got, err := a.e.try(t, "-n", a.namespace, "get", "rollouts.argoproj.io", a.app, "-o", "jsonpath={.status.phase} {.status.currentStepIndex} {.status.canary.weights.canary.weight}")
		if err == nil && got != want {
			err = errors.New(got)
		}
		return err
	})
}

// isSplit wants the TrafficSplit to be what Argo Rollouts means, and written in v1alpha1, and the mesh to act on it.
func (a *argoApp) isSplit(t *testing.T, stable, canary int) {
	t.Helper()
	if got, want := a.backends(t, a.app, "v1alpha1"), fmt.Sprintf("%s-canary %[1]s-stable %d %d", a.app, canary, stable); got != want {
		t.Errorf("the TrafficSplit is %s, want %s", got, want)
	}
	got := a.e.run(t, "-n", a.namespace, "get", "trafficsplit", a.app, "--show-managed-fields", "-o", `jsonpath={.metadata.managedFields[*].apiVersion} {.spec.service}`)
	if want := "split.smi-spec.io/v1alpha1 " + a.name; got != want {
		t.Errorf("who wrote the TrafficSplit in which version, and its root: %s, want %s", got, want)
	}
	a.acts(t, a.app, map[string]int{a.app + "-stable": stable, a.app + "-canary": canary})
}

// ended wants a load to have been answered by both versions, always.
func (a *argoApp) ended(t *testing.T, l *load, stable, canary string) {
	t.Helper()
	s := l.stop(t)
	t.Logf("%s: %d requests, %d failed, %v, longest gap %.0f ms, p99 %.1f ms", l.name, s.Calls, s.Failed, s.ByVersion, s.GapMS, s.P99MS)
	if s.Failed > 0 || s.ByVersion[stable] == 0 || s.ByVersion[canary] == 0 {
		t.Errorf("%d of %d requests failed: %v, status %v; answers by version: %v", s.Failed, s.Calls, s.Errors, s.ByStatus, s.ByVersion)
	}
}
