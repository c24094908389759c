package upstream_test

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

var web = upstream.Key{Service: "shop/web", Port: 80}

// list describes endpoints of port 80; "-" in front of an address makes it drain.
func list(addresses ...string) *configv1.Endpoints {
	p := &configv1.EndpointPort{Port: 80}
	for _, a := range addresses {
		ip, draining := strings.CutPrefix(a, "-")
		p.Endpoints = append(p.Endpoints, &configv1.Endpoint{Address: ip, Port: 8080, Draining: draining})
	}
	return &configv1.Endpoints{Ports: []*configv1.EndpointPort{p}}
}

func update(t *testing.T, s *upstream.Set, name string, e *configv1.Endpoints) {
	t.Helper()
	if err := s.Update(name, e); err != nil {
		t.Fatal(err)
	}
}

func picks(g *upstream.Group, n int) string {
	var out []string
	for range n {
		e := g.Pick()
		if e == nil {
			return "none"
		}
		out = append(out, e.AddrPort().Addr().String())
	}
	return strings.Join(out, " ")
}

func TestPickTakesTurnsAmongReadyEndpoints(t *testing.T) {
	s := upstream.NewSet(upstream.Config{})
	g := s.Group(web)
	if got := picks(g, 1); got != "none" {
		t.Errorf("nothing known: %s", got)
	}
	update(t, s, "shop/web", list("10.0.0.1", "-10.0.0.2", "10.0.0.3"))
	if got := picks(g, 4); got != "10.0.0.3 10.0.0.1 10.0.0.3 10.0.0.1" && got != "10.0.0.1 10.0.0.3 10.0.0.1 10.0.0.3" {
		t.Errorf("picked %s", got)
	}
	update(t, s, "shop/web", list("-10.0.0.1"))
	if got := picks(g, 1); got != "none" {
		t.Errorf("all draining: %s", got)
	}
	s.Remove("shop/web")
	if got := picks(g, 1); got != "none" {
		t.Errorf("removed: %s", got)
	}
}

func TestPickPrefersTheIdleUntriedAndHealthy(t *testing.T) {
	s := upstream.NewSet(upstream.Config{Penalty: time.Hour})
	g := s.Group(web)
	update(t, s, "shop/web", list("10.0.0.1", "10.0.0.2"))
	busy := g.Pick()
	busy.Begin()
	idle := g.Pick()
	if idle == busy {
		t.Fatal("the same twice in a row")
	}
	for range 4 {
		if g.Pick() != idle {
			t.Error("the busy one was picked")
		}
	}
	if g.Pick(idle) != busy || g.Pick(idle, busy) != nil {
		t.Error("a tried one was picked")
	}
	idle.Failed()
	if g.Pick() != busy || g.Pick(busy) != idle {
		t.Error("one that failed is the last resort")
	}
}

// An endpoint is gone once no service names it, and another pod on its address is another endpoint.
func TestEndpointsAreSharedAndEnd(t *testing.T) {
	s := upstream.NewSet(upstream.Config{})
	g, alias := s.Group(web), s.Group(upstream.Key{Service: "shop/alias", Port: 80})
	update(t, s, "shop/web", list("10.0.0.1"))
	update(t, s, "shop/alias", list("10.0.0.1"))
	e := g.Pick()
	if e != alias.Pick() {
		t.Error("one address became two endpoints")
	}
	s.Remove("shop/web")
	if e.Gone() || alias.Pick() != e {
		t.Error("gone, though a service has it")
	}
	other := list("10.0.0.1")
	other.Ports[0].Endpoints[0].Pod = "another"
	update(t, s, "shop/alias", other)
	if !e.Gone() || alias.Pick() == e {
		t.Error("another pod took over the endpoint")
	}
}

func TestNonsenseChangesNothing(t *testing.T) {
	s := upstream.NewSet(upstream.Config{})
	g := s.Group(web)
	update(t, s, "shop/web", list("10.0.0.1"))
	for name, e := range map[string]*configv1.Endpoints{
		"address":    list("10.0.0.2", "example.com"),
		"port 0":     {Ports: []*configv1.EndpointPort{{Port: 0}}},
		"port twice": {Ports: []*configv1.EndpointPort{{Port: 80}, {Port: 80}}},
		"no port":    {Ports: []*configv1.EndpointPort{{Port: 80, Endpoints: []*configv1.Endpoint{{Address: "10.0.0.2"}}}}},
	} {
		if err := s.Update("shop/web", e); err == nil {
			t.Errorf("%s: taken", name)
		}
		if got := picks(g, 1); got != "10.0.0.1" {
			t.Errorf("%s: %s is in use", name, got)
		}
	}
}

func TestDialErrorsAreKnown(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	s := upstream.NewSet(upstream.Config{})
	g := s.Group(web)
	e := list("127.0.0.1")
	e.Ports[0].Endpoints[0].Port = uint32(port)
	update(t, s, "shop/web", e)
	_, err = g.Pick().Direct().Dial(t.Context())
	var dial *upstream.DialError
	if !errors.As(err, &dial) || !strings.HasPrefix(err.Error(), "connect to 127.0.0.1:") {
		t.Errorf("%v", err)
	}
}
