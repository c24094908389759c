package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// canary is an application that Flagger looks after.
type canary struct {
	shifted
	version string
	looks   int
}

// apply makes the documented Canary one of this application, with an interval so long that only advance has Flagger look.
func (c *canary) apply(t *testing.T, documented *unstructured.Unstructured) {
	t.Helper()
	o := documented.DeepCopy()
	set(t, o, c.namespace, "metadata", "namespace")
	set(t, o, c.name, "metadata", "name")
	set(t, o, c.name, "spec", "targetRef", "name")
	set(t, o, "smi:"+c.version, "spec", "provider")
	set(t, o, c.interval(), "spec", "analysis", "interval")
	metrics, _, err := unstructured.NestedSlice(o.Object, "spec", "analysis", "metrics")
	if err != nil || len(metrics) != 2 {
		t.Fatalf("the documented Canary has metrics %v, %v", metrics, err)
	}
	for _, m := range metrics {
		m := m.(map[string]any)
		m["interval"] = metricWindow
		m["templateRef"].(map[string]any)["namespace"] = c.namespace
		if limits := m["thresholdRange"].(map[string]any); limits["max"] != nil {
			limits["max"] = execTimeout.Seconds() // this machine may be as slow as it likes
		}
	}
	set(t, o, metrics, "spec", "analysis", "metrics")
	c.e.applyObject(t, o)
}

func (c *canary) deploy(t *testing.T, version string, status int) {
	t.Helper()
	c.e.apply(t, c.namespace, file(t, "canary-app.yaml", "$NAME", c.name, "$VERSION", version, "$STATUS", fmt.Sprint(status)))
}

// interval is one that Flagger has not seen yet.
func (c *canary) interval() string {
	c.looks++
	return fmt.Sprintf("%dm", 10+c.looks)
}

// advance has Flagger look at the canary until its state begins with what is wanted: phase, weight and failed checks. By
// itself it looks every interval, but at once when that has changed.
func (c *canary) advance(t *testing.T, want string) {
	t.Helper()
	var looked time.Time
	c.e.eventually(t, want, func() error {
		if time.Since(looked) > lookEvery {
			patch := fmt.Sprintf(`{"spec": {"analysis": {"interval": %q}}}`, c.interval())
			if _, err := c.e.try(t, "-n", c.namespace, "patch", "canary", c.name, "--type=merge", "-p", patch); err != nil {
				return err
			}
			looked = time.Now()
		}
		got, err := c.e.try(t, "-n", c.namespace, "get", "canary", c.name, "-o", "jsonpath={.status.phase} {.status.canaryWeight} {.status.failedChecks}")
		if err == nil && !strings.HasPrefix(got, want) {
			err = errors.New(got)
		}
		return err
	})
}

// isSplit wants the TrafficSplit to be what Flagger means, in Flagger's version of it, and the mesh to act on it.
func (c *canary) isSplit(t *testing.T, primary, canary int) {
	t.Helper()
	if got, want := c.backends(t, c.name, c.version), fmt.Sprintf("%s-canary %[1]s-primary %d %d", c.name, canary, primary); got != want {
		t.Errorf("the TrafficSplit is %s, want %s", got, want)
	}
	c.acts(t, c.name, map[string]int{c.name + "-primary": primary, c.name + "-canary": canary})
}

// measured waits until Prometheus knows of the canary's answers.
func (c *canary) measured(t *testing.T, code string) {
	t.Helper()
	c.e.eventually(t, "metrics of the canary", func() error {
		return c.e.hasSamples(t, fmt.Sprintf(`rate(tulle_proxy_requests_total{namespace=%q, service=%q, backend="%s/%s-canary", code=%q}[%s]) > 0`,
			c.namespace, c.name, c.namespace, c.name, code, metricWindow))
	})
}
