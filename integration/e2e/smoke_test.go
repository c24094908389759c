package e2e

import (
	"net"
	"strings"
	"testing"
)

// smoke checks the ground that all other suites stand on: the cluster and the test tool, without tulle.
func smoke(t *testing.T, e *env) {
	ns := e.namespace(t, "e2e-smoke", "pod-security.kubernetes.io/enforce: restricted")
	e.apply(t, ns, file(t, "backend.yaml", "$NAME", "web", "$REPLICAS", "2", "$VERSION", "v1"))
	e.rollout(t, ns, "deployment/web")
	c := e.clients[0]
	for name, args := range map[string][]string{
		"http":       {"get", "-n", "40", "-c", "4", "http://web.e2e-smoke/x"},
		"keep-alive": {"get", "-n", "10", "-keepalive", "http://web.e2e-smoke"},
		"h2c":        {"get", "-n", "10", "-h2c", "http://web.e2e-smoke"},
		"tls":        {"get", "-n", "10", "https://web.e2e-smoke"},
		"websocket":  {"ws", "-n", "10", "http://web.e2e-smoke/chat"},
		"tcp":        {"tcp", "-n", "10", "web.e2e-smoke:9000"},
		"banner":     {"tcp", "-n", "10", "-banner", "web.e2e-smoke:9001"},
		"udp":        {"udp", "-n", "10", "web.e2e-smoke:9002"},
	} {
		t.Run(name, func(t *testing.T) {
			e.inARow(t, "answers", 2, settleTimeout, func() error { return c.allOK(t, args...) })
		})
	}
	t.Run("what a server says", func(t *testing.T) {
		s := c.call(t, "get", "-host", "other.example", "-H", "X-Test: 1", "http://web.e2e-smoke/a%2Fb?c=d")
		if a := s.Last; a == nil || a.Host != "other.example" || a.URI != "/a%2Fb?c=d" || a.Headers["X-Test"][0] != "1" || a.Version != "v1" {
			t.Errorf("the server saw %+v", a)
		}
	})
	t.Run("dns", func(t *testing.T) { smokeDNS(t, c) })
	t.Run("load", func(t *testing.T) {
		l := c.load(t, "smoke", "-rate", "100", "http://web.e2e-smoke", "udp://web.e2e-smoke:9002")
		e.run(t, "-n", ns, "get", "pods") // a moment
		if s := l.stop(t); s.Calls == 0 || s.Failed > 0 {
			t.Errorf("%d of %d calls failed: %v", s.Failed, s.Calls, s.Errors)
		}
	})
	t.Run("metrics", func(t *testing.T) {
		e.needEmbedded(t)
		dns := e.pods(t, "kube-system", "k8s-app=kube-dns")[0]
		if n := e.metrics(t, dns, 9153).sum("coredns_dns_requests_total", map[string]string{"type": "A"}); n == 0 {
			t.Error("CoreDNS counts no requests")
		}
	})
	t.Run("past the Services", func(t *testing.T) {
		for _, p := range e.pods(t, ns, "app=web") {
			for _, loopback := range []bool{false, true} {
				if got := e.httpGet(t, p, 8080, "/", loopback); !strings.Contains(got, p.name) {
					t.Errorf("pod %s answers %s", p.name, got)
				}
			}
		}
	})
}

func smokeDNS(t *testing.T, c client) {
	l := c.resolve(t, "web.e2e-smoke.svc.cluster.local")
	if l.RCode != "success" || len(l.Answers) != 1 || net.ParseIP(l.Answers[0]) == nil {
		t.Errorf("the Service's name: %+v", l)
	}
	if l := c.resolve(t, "none.e2e-smoke.svc.cluster.local"); l.RCode != "name-error" || l.SOAMinimum == nil {
		t.Errorf("a name that isn't there: %+v", l)
	}
	if l := c.resolve(t, "-search", "web.e2e-smoke"); len(l.Answers) != 1 || l.Error != "" {
		t.Errorf("by the search path: %+v", l)
	}
}

func smokeDualStack(t *testing.T, e *env) {
	e.needDualStack(t)
	ns := e.namespace(t, "e2e-dual")
	e.apply(t, ns, file(t, "backend.yaml", "$NAME", "web", "$REPLICAS", "2", "$VERSION", "v1"))
	e.run(t, "-n", ns, "patch", "service", "web", "-p", `{"spec":{"ipFamilyPolicy":"RequireDualStack"}}`)
	e.rollout(t, ns, "deployment/web")
	c := e.clients[1]
	for _, kind := range []string{"A", "AAAA"} {
		l := c.resolve(t, "-type", kind, "web.e2e-dual.svc.cluster.local")
		if len(l.Answers) != 1 {
			t.Fatalf("%s: %+v", kind, l)
		}
		e.inARow(t, kind, 2, settleTimeout, func() error {
			return c.allOK(t, "get", "-n", "10", "http://"+net.JoinHostPort(l.Answers[0], "80"))
		})
	}
}
