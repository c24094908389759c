package proxy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/observed"
)

// observed lists what was recorded and is not past.
func (m *mesh) observed() []string {
	var out []string
	for _, e := range m.Observed(nil).Edges {
		for _, c := range e.Calls {
			if !c.Past {
				out = append(out, strings.Join(strings.Fields(fmt.Sprintf("%d %s to %s by %s %d %s %s %s %s", c.Count, e.From, e.To, e.Service, e.Port, e.Protocol, c.Method, c.Path, c.Reason)), " "))
			}
		}
	}
	slices.Sort(out)
	return out
}

func (m *mesh) awaitObserved(want ...string) {
	m.t.Helper()
	eventually(m.t, func() error {
		if got := m.observed(); !slices.Equal(got, want) {
			return fmt.Errorf("observed:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		return nil
	})
}

// What is called in audit mode is recorded, whether a rule allows it or not, and nothing else is.
func TestObserved(t *testing.T) {
	m := start(t)
	address, _ := recorder(t, ok)
	front := m.protect("web", httpPort, allow("shop/client", enforce, httpRule), address)
	outcome(t, front, "/api/1")
	m.set("shop/web", allow("shop/client", audit, httpRule))
	for _, target := range []string{"/api/1?q=2", "/api/2", "/denied", "//x%2f"} {
		if got := outcome(t, front, target); got != "200" {
			t.Errorf("%s: %s", target, got)
		}
	}
	m.awaitObserved(
		"1 shop/client to shop/web by shop/web 80 http GET #unsafe bad-path",
		"1 shop/client to shop/web by shop/web 80 http GET /denied route-denied",
		"2 shop/client to shop/web by shop/web 80 http GET /api/#number",
	)
	m.set("shop/web", allow("shop/client", enforce, httpRule))
	m.awaitObserved()
	if r := m.Observed(nil); len(r.Edges) != 1 || len(r.Edges[0].Calls) != 3 || !r.Edges[0].Calls[0].Past {
		t.Errorf("what is past is forgotten: %+v", r)
	}
	if r := m.Observed(observed.To("shop/other")); len(r.Edges) != 0 {
		t.Errorf("of another destination: %+v", r)
	}
}

// A connection that is older than the audit would be cut when it ends, so it is part of it; and again of every new policy.
func TestObservedOfLiveConnections(t *testing.T) {
	m := start(t)
	front := m.protect("db", tcpPort, allow("shop/client", enforce, tcpRule), rawServer(t, echo))
	c := dialRaw(t, front)
	c.exchange("a")
	m.awaitObserved()
	m.set("shop/web", &configv1.Policy{Mode: audit})
	m.awaitObserved("1 shop/client to shop/web by shop/db 80 tcp no-target")
	m.callers(client("client")) // is no change of policy
	m.awaitObserved("1 shop/client to shop/web by shop/db 80 tcp no-target")
	m.set("shop/web", allow("shop/other", audit, tcpRule))
	m.awaitObserved("1 shop/client to shop/web by shop/db 80 tcp source-denied")
	again := dialRaw(t, front)
	again.exchange("b")
	m.awaitObserved("2 shop/client to shop/web by shop/db 80 tcp source-denied")
	c.exchange("c")
}

func TestObservedOfUDP(t *testing.T) {
	m := start(t)
	front := m.protect("dns", udpPort, allow("shop/client", audit, tcpRule), echoUDP(t))
	if got := dialUDP(t, front).ask("one"); got != "one" {
		t.Error(got)
	}
	m.awaitObserved("1 shop/client to shop/web by shop/dns 80 udp port-denied")
}
