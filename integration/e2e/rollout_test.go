package e2e

import (
	"context"
	"fmt"
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
}

type rolloutSuite struct {
	e    *env
	urls []string
}

// under runs what under a load of 200 requests a second, none of which may fail; no client tries one twice.
func (r *rolloutSuite) under(t *testing.T, name string, what func(t *testing.T)) {
	t.Helper()
	var loads []*load
	for _, c := range r.e.clients {
		loads = append(loads, c.load(t, name, append([]string{"-rate", "100", "-per-conn", "20"}, r.urls...)...))
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

func (r *rolloutSuite) restart(t *testing.T) {
	r.under(t, "restart", func(t *testing.T) {
		r.e.run(t, "-n", meshNamespace, "rollout", "restart", "daemonset/tulle-proxy")
		r.e.rollout(t, meshNamespace, "daemonset/tulle-proxy")
		r.e.eventually(t, "only the new proxies", func() error {
			if ps := r.e.proxies(t); len(ps) != len(r.e.clients) {
				return fmt.Errorf("%d proxies", len(ps))
			}
			return nil
		})
	})
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
	r.under(t, "alone", func(t *testing.T) {
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

// killLeader: another replica writes mesh addresses within 20 s.
func (r *rolloutSuite) killLeader(t *testing.T) {
	var leader string
	r.e.eventually(t, "a leader", func() error {
		holder := r.e.run(t, "-n", meshNamespace, "get", "lease", "tulle-controller", "-o", "jsonpath={.spec.holderIdentity}")
		leader, _, _ = strings.Cut(holder, "_")
		if !strings.HasPrefix(leader, "tulle-controller-") {
			return fmt.Errorf("the lease is held by %q", holder)
		}
		return nil
	})
	ps, err := r.e.embedded.ContainerProcesses(t.Context(), meshNamespace, leader, "")
	if err != nil {
		t.Fatal(err)
	}
	// Frozen rather than killed: a dead process would be restarted and might win again; and its lease stays.
	for _, p := range ps {
		if err := p.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		defer p.Signal(syscall.SIGCONT) //nolint:errcheck // it may have been restarted by its liveness probe
	}
	frozen := time.Now()
	r.e.apply(t, "e2e-many", "{apiVersion: v1, kind: Service, metadata: {name: late}, spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}}")
	r.e.eventually(t, "a new service", func() error {
		return r.e.clients[0].allOK(t, "get", "http://late.e2e-many.mesh./")
	})
	took := time.Since(frozen)
	t.Logf("another leader serves a new service %v after the first one froze", took.Round(100*time.Millisecond))
	if took > 20*time.Second {
		t.Errorf("it took %v, want 20 s at most", took)
	}
}
