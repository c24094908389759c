package e2e

import (
	"fmt"
	"net"
	"testing"
)

// sharedAddress: one address for the HTTP ports of all services, and the way there and back under load.
func sharedAddress(t *testing.T, e *env) {
	ns := e.namespace(t, "e2e-shared")
	e.apply(t, ns, file(t, "backend.yaml", "$NAME", "mixed", "$REPLICAS", "2", "$VERSION", "v1"))
	e.apply(t, ns, file(t, "http-services.yaml"))
	e.rollout(t, ns, "deployment/mixed")
	c := e.clients[0]
	get := []string{"get", "-n", "5", "http://web.e2e-shared.mesh/"}
	urls := []string{"http://web.e2e-shared.mesh./", "http://own.e2e-shared.mesh./"}
	for _, c := range e.clients { // a node's proxy may come to know of them later than another's
		e.inARow(t, "the mesh names from "+c.node, 3, settleTimeout, func() error { return c.allOK(t, append([]string{"get"}, urls...)...) })
	}
	dedicated := c.resolve(t, "web.e2e-shared.mesh").Answers
	var loads []*load
	for _, c := range e.clients {
		loads = append(loads, c.load(t, "switch", append([]string{"-rate", "100", "-per-conn", "10"}, urls...)...))
	}
	e.setValues(t, "--set", "addresses.http=shared")
	shared := func() string {
		return e.run(t, "-n", meshNamespace, "get", "service", "tulle-http", "--ignore-not-found", "-o", "jsonpath={.spec.clusterIP}")
	}
	e.inARow(t, "the shared address", 3, settleTimeout, func() error {
		if got := c.resolve(t, "web.e2e-shared.mesh").Answers; fmt.Sprint(got) != fmt.Sprint([]string{shared()}) {
			return fmt.Errorf("the mesh name is %v, the shared address %v", got, shared())
		}
		return c.allOK(t, get...)
	})
	if got := c.call(t, "get", "-host", "other.example", "http://web.e2e-shared.mesh/"); got.ByStatus[421] != 1 || got.LastReply["Tulle-Reason"] == "" {
		t.Errorf("another Host at the shared address: %+v", got)
	}
	if got := c.call(t, "get", "-host", "other.example", "http://own.e2e-shared.mesh/"); got.OK != 1 || got.ByVersion["v1"] != 1 {
		t.Errorf("another Host at a dedicated address: %+v", got)
	}
	if err := c.allOK(t, "tcp", "-n", "5", "mixed.e2e-shared.mesh:9000"); err != nil {
		t.Errorf("a service with TCP ports, which has an address of its own: %v", err)
	}
	e.setValues(t, "--set", "addresses.http=dedicated")
	e.inARow(t, "a dedicated address again", 3, settleTimeout, func() error {
		if got := c.resolve(t, "web.e2e-shared.mesh").Answers; len(got) != 1 || got[0] == shared() {
			return fmt.Errorf("the mesh name is %v, it was %v", got, dedicated)
		}
		return c.allOK(t, get...)
	})
	for _, l := range loads {
		if s := l.stop(t); s.Calls == 0 || s.Failed > 0 {
			t.Errorf("%d of %d requests from %s failed: %v", s.Failed, s.Calls, l.client.node, s.Errors)
		}
	}
}

// setValues changes values of the installed release.
func (e *env) setValues(t *testing.T, args ...string) {
	t.Helper()
	if _, err := e.tulle(t, e.release, append(append([]string{"upgrade"}, e.release.values()...), args...)...); err != nil {
		t.Fatal(err)
	}
}

// meshDualStack: mesh names have addresses of both families, and both are served.
func meshDualStack(t *testing.T, e *env) {
	ns := e.namespace(t, "e2e-mesh6")
	e.apply(t, ns, file(t, "backend.yaml", "$NAME", "web", "$REPLICAS", "2", "$VERSION", "v1"))
	e.run(t, "-n", ns, "patch", "service", "web", "-p", `{"spec":{"ipFamilyPolicy":"RequireDualStack"}}`)
	e.rollout(t, ns, "deployment/web")
	for _, c := range e.clients {
		for _, kind := range []string{"A", "AAAA"} {
			e.inARow(t, kind, 3, settleTimeout, func() error {
				l := c.resolve(t, "-type", kind, "web.e2e-mesh6.mesh")
				if len(l.Answers) != 1 {
					return fmt.Errorf("%s: %+v", kind, l)
				}
				for _, args := range [][]string{
					{"get", "-n", "10", "http://" + net.JoinHostPort(l.Answers[0], "80") + "/"},
					{"tcp", "-n", "10", net.JoinHostPort(l.Answers[0], "9000")},
					{"udp", "-n", "10", net.JoinHostPort(l.Answers[0], "9002")},
				} {
					if err := c.allOK(t, args...); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
}
