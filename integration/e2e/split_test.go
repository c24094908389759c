package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tulle-mesh/tulle/integration/images/report"
)

// splits: TrafficSplits on a real cluster (T1-T6).
func splits(t *testing.T, e *env) {
	ns := e.namespace(t, "e2e-split")
	for name, version := range map[string]string{"web": "root", "web-v1": "v1", "web-v2": "v2"} {
		e.apply(t, ns, file(t, "backend.yaml", "$NAME", name, "$REPLICAS", "2", "$VERSION", version))
	}
	e.rollout(t, ns, "deployment/web", "deployment/web-v1", "deployment/web-v2")
	s := &splitSuite{e: e, ns: ns, client: e.clients[0]}
	e.inARow(t, "the root", 3, settleTimeout, func() error { return s.client.allOK(t, "get", "http://web.e2e-split.mesh/") })
	t.Run("90/10 is exact", func(t *testing.T) { s.exact(t, 90, 10, 540, 60) })
	t.Run("1000/500 is exact", func(t *testing.T) { s.exact(t, 1000, 500, 400, 200) })
	t.Run("0/100", func(t *testing.T) { s.exact(t, 0, 100, 0, 600) })
	t.Run("TCP", s.tcp)
	t.Run("direct callers", func(t *testing.T) {
		if got := s.client.call(t, "get", "-n", "50", "http://web.e2e-split/"); got.ByVersion["root"] != 50 {
			t.Errorf("50 calls by the plain name: %v", got.ByVersion)
		}
	})
	t.Run("change to effect", s.latency)
	t.Run("by header", s.byHeader)
	t.Run("port mismatch", s.portMismatch)
	t.Run("missing backend", s.missingBackend)
}

type splitSuite struct {
	e      *env
	ns     string
	client client
}

func (s *splitSuite) apply(t *testing.T, v1, v2 int) {
	t.Helper()
	s.e.apply(t, s.ns, file(t, "split.yaml", "$V1", fmt.Sprint(v1), "$V2", fmt.Sprint(v2)))
}

func (s *splitSuite) calls(t *testing.T, n int, args ...string) report.Summary {
	t.Helper()
	return s.client.call(t, append([]string{"get", "-n", fmt.Sprint(n)}, append(args, "http://web.e2e-split.mesh/")...)...)
}

// exact waits until the split is in use, then 600 requests of this one node have to go exactly where it says.
func (s *splitSuite) exact(t *testing.T, v1, v2, want1, want2 int) {
	s.apply(t, v1, v2)
	cycle := want1 + want2
	// In use: a whole cycle of the reduced weights went as it should, twice.
	s.e.inARow(t, "the split", 2, settleTimeout, func() error {
		got := s.calls(t, 60)
		if got.ByVersion["v1"] != 60*want1/cycle || got.ByVersion["v2"] != 60*want2/cycle {
			return fmt.Errorf("60 calls went to %v", got.ByVersion)
		}
		return nil
	})
	got := s.calls(t, 600, "-c", "4")
	if got.OK != 600 || got.ByVersion["v1"] != want1 || got.ByVersion["v2"] != want2 {
		t.Errorf("600 calls went to %v (%d failed: %v), want v1 %d and v2 %d", got.ByVersion, got.Failed, got.Errors, want1, want2)
	}
}

func (s *splitSuite) tcp(t *testing.T) {
	s.apply(t, 50, 50)
	s.e.inARow(t, "half and half", 2, settleTimeout, func() error {
		got := s.client.call(t, "tcp", "-n", "40", "web.e2e-split.mesh:9000")
		v1, v2 := 0, 0
		for pod, n := range got.ByPod {
			switch {
			case strings.HasPrefix(pod, "web-v1-"):
				v1 += n
			case strings.HasPrefix(pod, "web-v2-"):
				v2 += n
			}
		}
		if v1 != 20 || v2 != 20 {
			return fmt.Errorf("40 connections went to %v", got.ByPod)
		}
		return nil
	})
}

// latency: 20 changes, each from just before the API server is told until all answers know it.
func (s *splitSuite) latency(t *testing.T) {
	s.apply(t, 0, 100)
	s.e.inARow(t, "v2 alone", 3, settleTimeout, func() error { return s.all(t, "v2") })
	change := s.e.weights(t, s.ns)
	l := s.client.load(t, "latency", "-rate", "200", "http://web.e2e-split.mesh./")
	s.e.underWay(t, 1)
	var told []time.Time
	for i := range 20 {
		v1, want := 100, "v1"
		if i%2 == 1 {
			v1, want = 0, "v2"
		}
		told = append(told, change(v1))
		s.e.inARow(t, want, 2, settleTimeout, func() error { return s.all(t, want) })
	}
	got := l.stop(t)
	if got.Failed > 0 {
		t.Errorf("%d of %d requests failed: %v", got.Failed, got.Calls, got.Errors)
	}
	took := effects(t, got.Turns, told)
	slices.Sort(took)
	t.Logf("from the API call until all answers know: p50 %v, p95 %v, max %v", took[9], took[18], took[19])
	if took[18] > time.Second {
		t.Errorf("p95 over 20 changes is %v, want under 1 s", took[18])
	}
}

// underWay waits until requests that nobody here makes one by one arrive at the proxies of the first nodes.
func (e *env) underWay(t *testing.T, nodes int) {
	t.Helper()
	requests := func() map[string]float64 {
		n := map[string]float64{}
		for _, p := range e.proxies(t) {
			n[p.node] += e.metrics(t, p, proxyMetricsPort).sum("tulle_proxy_requests_total", nil)
		}
		return n
	}
	before := requests()
	e.eventually(t, "the load", func() error {
		now := requests()
		for _, c := range e.clients[:nodes] {
			if n := now[c.node] - before[c.node]; n < 20 {
				return fmt.Errorf("%v requests on %s", n, c.node)
			}
		}
		return nil
	})
}

// weights returns what sets the share of web-v1 in split web, and says when the API server was told. kubectl would take
// longer than the mesh.
func (e *env) weights(t *testing.T, ns string) func(v1 int) time.Time {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", e.kubectl.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	trafficSplits := objects.Resource(schema.GroupVersionResource{Group: "split.smi-spec.io", Version: "v1alpha4", Resource: "trafficsplits"}).Namespace(ns)
	return func(v1 int) time.Time {
		t.Helper()
		patch := fmt.Sprintf(`{"spec":{"backends":[{"service":"web-v1","weight":%d},{"service":"web-v2","weight":%d}]}}`, v1, 100-v1)
		told := time.Now()
		if _, err := trafficSplits.Patch(t.Context(), "web", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		return told
	}
}

// effects are the times from each change to the last turn of answers before the next one. Every change makes a turn.
func effects(t *testing.T, turns []report.Turn, told []time.Time) []time.Duration {
	t.Helper()
	var took []time.Duration
	for i, began := range told {
		var last time.Time
		for _, turn := range turns {
			if turn.At.After(began) && (i+1 == len(told) || turn.At.Before(told[i+1])) {
				last = turn.At
			}
		}
		if last.IsZero() {
			t.Fatalf("change %d had no effect; turns of the answers: %v", i, turns)
		}
		took = append(took, last.Sub(began))
	}
	return took
}

func (s *splitSuite) all(t *testing.T, version string) error {
	t.Helper()
	if got := s.calls(t, 5); got.ByVersion[version] != 5 {
		return fmt.Errorf("5 calls went to %v", got.ByVersion)
	}
	return nil
}

func (s *splitSuite) byHeader(t *testing.T) {
	s.e.run(t, "-n", s.ns, "delete", "trafficsplit", "web")
	s.e.apply(t, s.ns, file(t, "header-split.yaml"))
	s.e.inARow(t, "the header", 3, settleTimeout, func() error {
		with, without := s.calls(t, 20, "-H", "x-beta: yes"), s.calls(t, 20)
		if with.ByVersion["v2"] != 20 || without.ByVersion["root"] != 20 {
			return fmt.Errorf("with the header %v, without %v", with.ByVersion, without.ByVersion)
		}
		return nil
	})
	s.e.run(t, "-n", s.ns, "delete", "trafficsplit", "web-beta")
}

// portMismatch: a backend without the root's port takes no part, and the split says so.
func (s *splitSuite) portMismatch(t *testing.T) {
	s.e.apply(t, s.ns, "{apiVersion: v1, kind: Service, metadata: {name: odd}, spec: {selector: {app: web-v1}, ports: [{name: http, port: 81, targetPort: 8080}]}}")
	s.e.apply(t, s.ns, strings.ReplaceAll(file(t, "split.yaml", "$V1", "50", "$V2", "50"), "web-v1", "odd"))
	s.e.inARow(t, "all to v2", 3, settleTimeout, func() error { return s.all(t, "v2") })
	s.e.eventually(t, "a Warning Event", func() error { return s.e.hasEvent(t, s.ns, "trafficsplit", "web", "PortMismatch") })
}

// missingBackend takes part as soon as it exists.
func (s *splitSuite) missingBackend(t *testing.T) {
	s.e.apply(t, s.ns, strings.ReplaceAll(file(t, "split.yaml", "$V1", "50", "$V2", "50"), "web-v1", "later"))
	s.e.eventually(t, "a Warning Event", func() error { return s.e.hasEvent(t, s.ns, "trafficsplit", "web", "BackendNotFound") })
	s.e.inARow(t, "all to v2", 3, settleTimeout, func() error { return s.all(t, "v2") })
	s.e.apply(t, s.ns, "{apiVersion: v1, kind: Service, metadata: {name: later}, spec: {selector: {app: web-v1}, ports: [{name: http, port: 80, targetPort: http}]}}")
	s.e.inARow(t, "half and half", 2, settleTimeout, func() error {
		if got := s.calls(t, 20); got.ByVersion["v1"] != 10 || got.ByVersion["v2"] != 10 {
			return fmt.Errorf("20 calls went to %v", got.ByVersion)
		}
		return nil
	})
}

// quarantine: what is broken changes nothing else, and what is next to it still changes within a second.
func quarantine(t *testing.T, e *env) {
	// What makes no sense would be refused; here it gets in.
	ns := e.namespace(t, "e2e-broken", `tulle.dev/validate: "off"`)
	for name, version := range map[string]string{"web": "root", "web-v1": "v1", "web-v2": "v2"} {
		e.apply(t, ns, file(t, "backend.yaml", "$NAME", name, "$REPLICAS", "1", "$VERSION", version))
	}
	e.rollout(t, ns, "deployment/web", "deployment/web-v1", "deployment/web-v2")
	c := e.clients[1]
	e.apply(t, ns, file(t, "split.yaml", "$V1", "0", "$V2", "100"))
	all := func(version string) error {
		if got := c.call(t, "get", "-n", "5", "http://web.e2e-broken.mesh/"); got.ByVersion[version] != 5 {
			return fmt.Errorf("5 calls went to %v (%v)", got.ByVersion, got.Errors)
		}
		return nil
	}
	e.inARow(t, "v2", 3, settleTimeout, func() error { return all("v2") })
	l := c.load(t, "quarantine", "-rate", "50", "http://web.e2e-broken.mesh/")
	e.applyUndecodable(t, ns)
	e.apply(t, ns, file(t, "broken.yaml"))
	for name, reason := range map[string]string{"itself": "SelfReference", "nowhere": "BackendNotFound", "zero": "AllWeightsZero", "undecodable": "InvalidObject"} {
		e.eventually(t, "an Event on "+name, func() error { return e.hasEvent(t, ns, "trafficsplit", name, reason) })
	}
	e.eventually(t, "an Event on the regex", func() error { return e.hasEvent(t, ns, "httproutegroup", "regex", "InvalidRegex") })
	e.eventually(t, "an Event on the target", func() error { return e.hasEvent(t, ns, "traffictarget", "target", "NotEnforced") })
	if got := c.call(t, "get", "http://empty.e2e-broken.mesh/"); got.ByStatus[503] != 1 {
		t.Errorf("a service without endpoints: %+v", got)
	}
	told := e.weights(t, ns)(100)
	e.inARow(t, "v1", 2, settleTimeout, func() error { return all("v1") })
	got := l.stop(t)
	if got.Failed > 0 {
		t.Errorf("%d of %d requests failed: %v", got.Failed, got.Calls, got.Errors)
	}
	if took := effects(t, got.Turns, []time.Time{told}); took[0] > time.Second {
		t.Errorf("a change beside broken objects took %v, want under 1 s", took[0])
	} else {
		t.Logf("a change beside broken objects took %v", took[0])
	}
	if out, err := e.tulle(t, e.release, "check"); err == nil || !strings.Contains(out, "InvalidRegex") {
		t.Errorf("tulle check finds nothing wrong: %s", out)
	}
}

// applyUndecodable puts an object into the cluster that no decoder understands: one from a time before its kind had a
// schema. The schema is back when this returns.
func (e *env) applyUndecodable(t *testing.T, ns string) {
	t.Helper()
	const crd = "trafficsplits.split.smi-spec.io"
	before := e.run(t, "get", "crd", crd, "-o", "jsonpath={.spec.versions[0].schema}")
	setSchema := func(ctx context.Context, schema string) error {
		_, err := e.kubectl.Run(ctx, "patch", "crd", crd, "--type=json", "-p", fmt.Sprintf(`[{"op": "replace", "path": "/spec/versions/0/schema", "value": %s}]`, schema))
		return err
	}
	if err := setSchema(t.Context(), `{"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}`); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), execTimeout)
		defer cancel()
		if err := setSchema(ctx, before); err != nil {
			t.Error(err)
		}
	})
	object := func(name string) string {
		return "{apiVersion: split.smi-spec.io/v1alpha4, kind: TrafficSplit, metadata: {name: " + name + "}, spec: all of it to the second one, please}"
	}
	e.eventually(t, "an object without a schema", func() error { return e.tryApply(t, ns, object("undecodable")) })
	if err := setSchema(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	e.eventually(t, "the schema's return", func() error {
		if e.tryApply(t, ns, object("undecodable-too")) == nil {
			return errors.New("there is none")
		}
		return nil
	})
}
