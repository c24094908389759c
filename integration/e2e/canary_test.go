package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tulle-mesh/tulle/internal/why"
)

// canary is an application that Flagger looks after.
type canary struct {
	e                        *env
	namespace, name, version string
	caller, other            client // on two nodes: each one's proxy shares out its own requests
	looks                    int
}

func (c *canary) url() string { return fmt.Sprintf("http://%s.%s.mesh./", c.name, c.namespace) }

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
	got := c.e.run(t, "-n", c.namespace, "get", "trafficsplits."+c.version+".split.smi-spec.io", c.name, "-o", "jsonpath={.spec.backends[*].service} {.spec.backends[*].weight}")
	if want := fmt.Sprintf("%s-canary %[1]s-primary %d %d", c.name, canary, primary); got != want {
		t.Errorf("the TrafficSplit is %s, want %s", got, want)
	}
	want := map[string]float64{}
	for service, percent := range map[string]int{"primary": primary, "canary": canary} {
		if percent > 0 {
			want[c.namespace+"/"+c.name+"-"+service] = float64(percent)
		}
	}
	c.e.eventually(t, "tulle why", func() error {
		out, err := c.e.tulle(t, c.e.release, "why", "--from", clientNamespace+"/default", "--to", c.name+"."+c.namespace, "-o", "json")
		if err != nil {
			return err
		}
		var a why.Answer
		if err := json.Unmarshal([]byte(out), &a); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		have := map[string]float64{}
		for _, b := range a.Backends {
			if b.Percent > 0 {
				have[b.Service] = b.Percent
			}
		}
		if a.Split != c.namespace+"/"+c.name || !maps.Equal(have, want) {
			return fmt.Errorf("split %s with %v, want %v", a.Split, have, want)
		}
		return nil
	})
}

// shares wants 60 requests of one node to be answered exactly so, by version or, if they fail, by status.
func (c *canary) shares(t *testing.T, want map[string]int) {
	t.Helper()
	c.e.inARow(t, fmt.Sprintf("shares %v", want), 2, settleTimeout, func() error {
		s := c.caller.call(t, "get", "-n", "60", c.url())
		got := maps.Clone(s.ByVersion)
		if n := s.ByStatus[500]; n > 0 {
			got["status 500"] = n
		}
		if !maps.Equal(got, want) {
			return fmt.Errorf("60 calls went to %v: %v, status %v", s.ByVersion, s.Errors, s.ByStatus)
		}
		return nil
	})
}

// measured waits until Prometheus knows of the canary's answers.
func (c *canary) measured(t *testing.T, code string) {
	t.Helper()
	c.e.eventually(t, "metrics of the canary", func() error {
		return c.e.hasSamples(t, fmt.Sprintf(`rate(tulle_proxy_requests_total{namespace=%q, service=%q, backend="%s/%s-canary", code=%q}[%s]) > 0`,
			c.namespace, c.name, c.namespace, c.name, code, metricWindow))
	})
}
