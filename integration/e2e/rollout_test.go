package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// dedicatedServices is how many services have addresses of their own while proxies come and go.
const dedicatedServices = 400

// rollouts: the mesh's own parts come, go and die under load, with many services and a cluster at its default speed.
func rollouts(t *testing.T, e *env) {
	e.needEmbedded(t)
	ns := e.namespace(t, "e2e-many")
	e.apply(t, ns, file(t, "backend.yaml", "$NAME", "web", "$REPLICAS", "2", "$VERSION", "v1"))
	e.rollout(t, ns, "deployment/web")
	var all strings.Builder
	for i := range dedicatedServices {
		fmt.Fprintf(&all, "---\n{apiVersion: v1, kind: Service, metadata: {name: s%d}, spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}}\n", i)
	}
	began := time.Now()
	e.apply(t, ns, all.String())
	r := &rolloutSuite{e: e}
	for i := range dedicatedServices {
		r.urls = append(r.urls, fmt.Sprintf("http://s%d.e2e-many.mesh./", i))
	}
	for _, c := range e.clients {
		e.inARow(t, "every service from "+c.node, 1, rolloutTimeout, func() error {
			for i := 0; i < dedicatedServices; i += 50 {
				if err := c.allOK(t, append([]string{"get"}, r.urls[i:i+50]...)...); err != nil {
					return err
				}
			}
			return nil
		})
	}
	t.Logf("%d services are called by mesh name %v after they were applied", dedicatedServices, time.Since(began).Round(time.Second))
	t.Run("rolling restart of the proxies", r.restart)
	t.Run("SIGKILL of a worker", r.killWorker)
	t.Run("no controller", r.noController)
	t.Run("the leader is killed", r.killLeader)
	if os.Getenv(soakEnv) != "" {
		t.Run("many roll-outs", r.many)
		e.run(t, "label", "namespace", ns, "tulle.dev/access=enforce")
		e.apply(t, ns, file(t, "many.yaml"))
		for _, c := range e.clients {
			e.inARow(t, "calls from "+c.node, 5, settleTimeout, func() error { return c.allOK(t, append([]string{"get"}, r.urls[:50]...)...) })
		}
		t.Run("many roll-outs, protected", r.many)
	}
}

type rolloutSuite struct {
	e    *env
	urls []string
}

// under runs what under a load of so many requests a second from each client, none of which may fail; no client tries one
// twice.
func (r *rolloutSuite) under(t *testing.T, name string, rate int, what func(t *testing.T)) {
	t.Helper()
	var loads []*load
	const callers = 3 * dedicatedServices // a connection is used again after 5 to 12 s
	for _, c := range r.e.clients {
		loads = append(loads, c.load(t, name, append([]string{"-rate", strconv.Itoa(rate), "-per-conn", "20", "-c", strconv.Itoa(callers)}, r.urls...)...))
	}
	what(t)
	for _, l := range loads {
		s := l.stop(t)
		t.Logf("%s from %s: %d requests, %d failed, longest gap %.0f ms, p99 %.1f ms", name, l.client.node, s.Calls, s.Failed, s.GapMS, s.P99MS)
		if s.Calls == 0 || s.Failed > 0 {
			t.Errorf("%d of %d requests failed: %v: %v", s.Failed, s.Calls, s.Errors, s.Failures)
		}
	}
}

func (r *rolloutSuite) restart(t *testing.T) { r.under(t, "restart", 100, r.replace) }

// many is twenty roll-outs in a row.
func (r *rolloutSuite) many(t *testing.T) {
	r.under(t, "restarts", 250, func(t *testing.T) {
		for range 20 {
			r.replace(t)
		}
	})
}

// drainLimit is how long what lives goes on once a proxy takes nothing new: proxy.drainLimit.
const drainLimit = 25 * time.Second

// replace replaces all proxies. TCP connections and WebSockets go on until the drain of the first of them is over: they
// may go through the other node's, too.
func (r *rolloutSuite) replace(t *testing.T) {
	t.Helper()
	old := r.e.proxies(t)
	var streams []*held
	for _, c := range r.e.clients {
		for _, target := range []string{"tcp://web.e2e-many.mesh.:9000", "ws://web.e2e-many.mesh.:80/"} {
			streams = append(streams, c.hold(t, target, "-duration", "3m", "-silence", "5s"))
		}
	}
	for _, h := range streams {
		if first := h.next(t); !first.Open {
			t.Fatalf("%s: %s", h, first.Error)
		}
	}
	r.e.run(t, "-n", meshNamespace, "rollout", "restart", "daemonset/tulle-proxy")
	r.e.rollout(t, meshNamespace, "daemonset/tulle-proxy")
	r.e.eventually(t, "only the new proxies", func() error { return r.e.oneProxyEach(t) })
	told := r.toldToStop(t, old[0])
	for _, p := range old[1:] {
		if at := r.toldToStop(t, p); at.Before(told) {
			told = at
		}
	}
	for _, h := range streams {
		end := h.next(t)
		lived := end.At.Sub(told)
		t.Logf("%s: lived for %.1f s after the first proxy was told to stop: %s", h, lived.Seconds(), end.Error)
		if end.Open || lived < drainLimit {
			t.Errorf("%s: lived for %v after the first proxy was told to stop, want %v at least: %+v", h, lived, drainLimit, end)
		}
	}
}

// toldToStop is when the kubelet told a pod to, in whole seconds, rounded down.
func (r *rolloutSuite) toldToStop(t *testing.T, p pod) time.Time {
	t.Helper()
	out := r.e.run(t, "-n", meshNamespace, "get", "events", "--field-selector", "involvedObject.name="+p.name+",reason=Killing", "-o", "jsonpath={.items[0].firstTimestamp}")
	told, err := time.Parse(time.RFC3339, out)
	if err != nil {
		t.Fatalf("when %s was told to stop: %v", p.name, err)
	}
	return told
}

// oneProxyEach says whether there are no proxies left but one on each node.
func (e *env) oneProxyEach(t *testing.T) error {
	t.Helper()
	if ps := e.proxies(t); len(ps) != len(e.clients) {
		return fmt.Errorf("%d proxies on %d nodes", len(ps), len(e.clients))
	}
	return nil
}

// killWorker: connections of the moment are lost, new ones wait for the next worker; no readiness flips.
func (r *rolloutSuite) killWorker(t *testing.T) {
	c := r.e.clients[0]
	p := r.proxyOf(t, c.node)
	l := c.load(t, "kill", append([]string{"-rate", "200", "-per-conn", "1"}, r.urls[:20]...)...)
	r.e.inARow(t, "the load", 2, settleTimeout, func() error { return c.allOK(t, "get", r.urls[0]) })
	ready := func() string {
		return r.e.run(t, "-n", meshNamespace, "get", "pod", p.name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].lastTransitionTime} {.status.containerStatuses[0].restartCount}`)
	}
	before := ready()
	ps, err := r.e.embedded.ContainerProcesses(t.Context(), meshNamespace, p.name, "")
	if err != nil {
		t.Fatal(err)
	}
	killed := 0
	for _, one := range ps {
		if strings.Contains(strings.Join(one.Args, " "), "worker") {
			killed++
			if err := one.Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	if killed != 1 {
		t.Fatalf("%d workers among %v", killed, ps)
	}
	r.e.inARow(t, "the load", 5, settleTimeout, func() error { return c.allOK(t, "get", r.urls[0]) })
	s := l.stop(t)
	t.Logf("worker killed: %d requests, %d failed, longest gap %.0f ms", s.Calls, s.Failed, s.GapMS)
	if s.GapMS >= 1000 {
		t.Errorf("no request succeeded for %.0f ms after the worker's death, want under 1 s", s.GapMS)
	}
	if after := ready(); after != before {
		t.Errorf("the pod's readiness or container changed: %s, then %s", before, after)
	}
}

func (r *rolloutSuite) proxyOf(t *testing.T, node string) pod {
	t.Helper()
	for _, p := range r.e.proxies(t) {
		if p.node == node {
			return p
		}
	}
	t.Fatalf("no proxy on %s", node)
	return pod{}
}

// noController: two minutes without one cost nothing, and a proxy whose container restarts serves what it knew.
func (r *rolloutSuite) noController(t *testing.T) {
	r.under(t, "alone", 100, func(t *testing.T) {
		r.e.run(t, "-n", meshNamespace, "scale", "deployment/tulle-controller", "--replicas=0")
		r.e.eventually(t, "no controller", func() error {
			if ps := r.e.pods(t, meshNamespace, "app.kubernetes.io/component=controller"); len(ps) > 0 && ps[0].name != "" {
				return fmt.Errorf("%d controllers", len(ps))
			}
			return nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		<-ctx.Done()
	})
	c := r.e.clients[1]
	p := r.proxyOf(t, c.node)
	restarts := func() string {
		return r.e.run(t, "-n", meshNamespace, "get", "pod", p.name, "-o", "jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}")
	}
	before := restarts()
	ps, err := r.e.embedded.ContainerProcesses(t.Context(), meshNamespace, p.name, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range ps {
		// Its children die with PID 1; they may be gone by their turn.
		_ = one.Signal(syscall.SIGKILL)
	}
	r.e.eventually(t, "the container restarted and ready", func() error {
		if now := restarts(); now == before || !strings.HasSuffix(now, "true") {
			return fmt.Errorf("restarts and readiness: %s", now)
		}
		return nil
	})
	r.e.inARow(t, "the last good config", 3, settleTimeout, func() error { return c.allOK(t, append([]string{"get"}, r.urls[:20]...)...) })
	r.e.run(t, "-n", meshNamespace, "scale", "deployment/tulle-controller", "--replicas=2")
	r.e.rollout(t, meshNamespace, "deployment/tulle-controller")
}

// killLeader: when the leader dies, a new service is served within 20 s; when it hangs, another replica writes within
// 20 s, and the proxies that were connected to the one that hangs find another.
func (r *rolloutSuite) killLeader(t *testing.T) {
	t.Run("killed", func(t *testing.T) {
		began := r.signalLeader(t, syscall.SIGKILL)
		r.newService(t, "killed")
		r.e.inARow(t, "a new service", 1, settleTimeout, func() error {
			return r.e.clients[0].allOK(t, "get", "-timeout", "1s", "http://killed.e2e-many.mesh./")
		})
		r.atMost(t, "a new service is served", time.Since(began))
	})
	t.Run("hangs", func(t *testing.T) {
		began := r.signalLeader(t, syscall.SIGSTOP)
		r.newService(t, "hangs")
		r.e.eventually(t, "its mesh address", func() error {
			out := r.e.run(t, "-n", meshNamespace, "get", "services", "-o", `jsonpath={.items[*].metadata.annotations.tulle\.dev/service}`)
			if !strings.Contains(" "+out+" ", " hangs ") {
				return errors.New("there is none")
			}
			return nil
		})
		r.atMost(t, "another leader has written", time.Since(began))
		for _, c := range r.e.clients {
			r.e.inARow(t, "a new service from "+c.node, 1, settleTimeout, func() error {
				return c.allOK(t, "get", "-timeout", "1s", "http://hangs.e2e-many.mesh./")
			})
		}
		t.Logf("every node's proxy knows the new service after %v", time.Since(began).Round(100*time.Millisecond))
	})
}

func (r *rolloutSuite) atMost(t *testing.T, what string, took time.Duration) {
	t.Helper()
	t.Logf("%s after %v", what, took.Round(100*time.Millisecond))
	if took > 20*time.Second {
		t.Errorf("%s after %v, want 20 s at most", what, took)
	}
}

func (r *rolloutSuite) newService(t *testing.T, name string) {
	t.Helper()
	r.e.apply(t, "e2e-many", "{apiVersion: v1, kind: Service, metadata: {name: "+name+"}, spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}}")
}

// signalLeader signals all processes of the leader and says when. What was stopped goes on after the test.
func (r *rolloutSuite) signalLeader(t *testing.T, sig syscall.Signal) time.Time {
	t.Helper()
	var leader string
	r.e.eventually(t, "a leader that is there", func() error {
		holder := r.e.run(t, "-n", meshNamespace, "get", "lease", "tulle-controller", "-o", "jsonpath={.spec.holderIdentity}")
		leader, _, _ = strings.Cut(holder, "_")
		_, err := r.e.try(t, "-n", meshNamespace, "get", "pod", leader)
		return err
	})
	ps, err := r.e.embedded.ContainerProcesses(t.Context(), meshNamespace, leader, "")
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for _, p := range ps {
		if err := p.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if sig == syscall.SIGSTOP {
			t.Cleanup(func() { _ = p.Signal(syscall.SIGCONT) }) // its liveness probe may have ended it
		}
	}
	return began
}
