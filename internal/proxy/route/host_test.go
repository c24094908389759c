package route_test

import (
	"strings"
	"testing"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

func table(t testing.TB) *route.Table {
	t.Helper()
	services := map[string]*route.Service{}
	for _, s := range []*configv1.Service{
		{Namespace: "shop", Name: "web"},
		{Namespace: "traefik", Name: "shop", Pod: "web"}, // what web.shop.traefik.mesh could mean, too
	} {
		name := s.Namespace + "/" + s.Name
		if s.Pod != "" {
			name += "/" + s.Pod
		}
		s.Ports = []*configv1.Port{
			{Port: 80, Protocol: configv1.Protocol_PROTOCOL_HTTP},
			{Port: 443, Protocol: configv1.Protocol_PROTOCOL_TCP},
			{Port: 53, Protocol: configv1.Protocol_PROTOCOL_UDP},
		}
		compiled, err := route.Compile(name, s, nil, upstream.NewSet(upstream.Config{}))
		if err != nil {
			t.Fatal(err)
		}
		services[name] = compiled
	}
	return &route.Table{Zones: route.Zones([]string{"Mesh.", "traefik.mesh", ""}), Services: services}
}

func TestTheLongestZoneIsMeant(t *testing.T) {
	for host, want := range map[string]string{
		"web.shop.mesh": "shop/web", "web.shop.traefik.mesh": "shop/web", "WEB.SHOP.MESH.:80": "shop/web",
		"web.shop.svc.local.mesh": "shop/web", "web.shop.svc.local": "", "web.shop": "", "": "", ".": "", ":": "", "mesh": "",
	} {
		p, reason := table(t).HTTPPort(&route.Binding{Port: 80}, host)
		got := ""
		if p != nil {
			got = p.Service.Name
		}
		if got != want || (reason == refusal.UnknownHost) != (want == "") {
			t.Errorf("%q: %q, %s; want %q", host, got, reason, want)
		}
	}
}

func TestOnlyHTTPPortsAreServedAsHTTP(t *testing.T) {
	for port, ok := range map[uint32]bool{80: true, 443: false, 53: false, 81: false} {
		for _, b := range []*route.Binding{{Port: port}, {Service: "shop/web", Port: port}} {
			if p, _ := table(t).HTTPPort(b, "web.shop.mesh"); (p != nil) != ok {
				t.Errorf("port %d of %q: %v", port, b.Service, p)
			}
		}
	}
	if p := table(t).Port(&route.Binding{Service: "shop/web", Port: 53}); p != nil {
		t.Error("a UDP port was found for TCP")
	}
	if p := table(t).Port(&route.Binding{Service: "shop/web", Port: 53, UDP: true}); p == nil {
		t.Error("the UDP port was not found")
	}
}

// FuzzHost: whatever a client writes into Host, it gets a service only by one of its names.
func FuzzHost(f *testing.F) {
	for _, host := range []string{"web.shop.mesh", "a.b.c.d.mesh:1", "[::1]:80", "..mesh", "web.shop.svc.local.mesh.", "\x00/\xff.mesh"} {
		f.Add(host)
	}
	tab := table(f)
	f.Fuzz(func(t *testing.T, host string) {
		p, reason := tab.HTTPPort(&route.Binding{Port: 80}, host)
		if (p == nil) != (reason == refusal.UnknownHost) {
			t.Errorf("port %v, reason %q", p, reason)
		}
		if p != nil && !strings.HasPrefix(strings.ToLower(host), "web.shop.") {
			t.Errorf("%q got %s", host, p.Service.Name)
		}
	})
}
