package e2e

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// canaryVersions are the versions of TrafficSplits that Flagger is made to write, each with an application of its own.
func canaryVersions() []string { return []string{"v1alpha3", "v1alpha2", "v1alpha1"} }

// flagger: a real Flagger promotes a version that works and rolls back one that doesn't. It judges by the mesh's own
// metrics, with the objects of docs/flagger.md.
func flagger(t *testing.T, e *env) {
	e.needEmbedded(t)
	ns := e.namespace(t, "e2e-flagger", "pod-security.kubernetes.io/enforce: restricted")
	e.startPrometheus(t)
	e.startFlagger(t, ns)
	examples := e.documented(t)
	for _, template := range examples["MetricTemplate"] {
		set(t, template, ns, "metadata", "namespace")
		set(t, template, prometheusURL, "spec", "provider", "address")
		e.applyObject(t, template)
	}
	for _, version := range canaryVersions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			c := &canary{shifted: shifted{e: e, namespace: ns, name: "web-" + version, caller: e.clients[0], other: e.clients[1]}, version: version}
			c.settle(t, examples["Canary"][0])
			c.promote(t)
			c.rollBack(t)
		})
	}
}

// settle is Flagger's beginning: the first version becomes the primary and gets all traffic.
func (c *canary) settle(t *testing.T, documented *unstructured.Unstructured) {
	c.deploy(t, "v1", 200)
	c.apply(t, documented)
	c.advance(t, "Initializing 0")
	c.e.eventually(t, "the primary", func() error {
		_, err := c.e.try(t, "-n", c.namespace, "get", "deployment", c.name+"-primary")
		return err
	})
	c.e.rollout(t, c.namespace, "deployment/"+c.name+"-primary")
	c.advance(t, "Initialized 0")
	c.isSplit(t, 100, 0)
	c.shares(t, map[string]int{"v1": 60})
}

// promote takes v2 from 30 and 60 per cent to all, and no request fails.
func (c *canary) promote(t *testing.T) {
	l := c.load(t, "promote-"+c.name)
	c.deploy(t, "v2", 200)
	c.advance(t, "Progressing 0")
	c.e.rollout(t, c.namespace, "deployment/"+c.name)
	c.advance(t, "Progressing 30 0")
	c.isSplit(t, 70, 30)
	c.shares(t, map[string]int{"v1": 42, "v2": 18})
	c.measured(t, "2xx")
	c.advance(t, "Progressing 60 0")
	c.isSplit(t, 40, 60)
	c.shares(t, map[string]int{"v1": 24, "v2": 36})
	c.advance(t, "Promoting")
	c.e.rollout(t, c.namespace, "deployment/"+c.name+"-primary")
	c.advance(t, "Finalising")
	c.isSplit(t, 100, 0)
	c.advance(t, "Succeeded")
	c.shares(t, map[string]int{"v2": 60})
	s := l.stop(t)
	t.Logf("promotion: %d requests, %d failed, %v, longest gap %.0f ms, p99 %.1f ms", s.Calls, s.Failed, s.ByVersion, s.GapMS, s.P99MS)
	if s.Failed > 0 || s.ByVersion["v1"] == 0 || s.ByVersion["v2"] == 0 {
		t.Errorf("%d of %d requests failed: %v, status %v; answers by version: %v", s.Failed, s.Calls, s.Errors, s.ByStatus, s.ByVersion)
	}
}

// rollBack gives v3, which answers 500, 30 per cent until Flagger has seen it in the metrics. Nothing else fails.
func (c *canary) rollBack(t *testing.T) {
	l := c.load(t, "rollback-"+c.name)
	c.deploy(t, "v3", 500)
	c.advance(t, "Progressing 0")
	c.e.rollout(t, c.namespace, "deployment/"+c.name)
	c.advance(t, "Progressing 30 0")
	c.isSplit(t, 70, 30)
	c.shares(t, map[string]int{"v2": 42, "status 500": 18})
	c.measured(t, "5xx")
	c.advance(t, "Progressing 30 1")
	c.advance(t, "Progressing 30 2")
	c.advance(t, "Failed 0")
	c.isSplit(t, 100, 0)
	c.shares(t, map[string]int{"v2": 60})
	s := l.stop(t)
	t.Logf("rollback: %d requests, %d failed, %v", s.Calls, s.Failed, s.ByVersion)
	if s.Failed != s.ByStatus[500] || s.OK != s.ByVersion["v2"] {
		t.Errorf("of %d requests %d failed, for other reasons than v3, too: %v, status %v; answers by version: %v", s.Calls, s.Failed, s.Errors, s.ByStatus, s.ByVersion)
	}
	c.e.eventually(t, "Flagger's reason", func() error { return c.e.hasEvent(t, c.namespace, "canary", c.name, "success rate") })
}
