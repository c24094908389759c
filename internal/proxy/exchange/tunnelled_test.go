package exchange_test

import (
	"testing"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy/exchange"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// Every request that comes by tunnel is told of, also those that come on one connection.
func TestTunnelledRequestsAreNoticed(t *testing.T) {
	s, err := route.Compile("shop/web", &configv1.Service{Namespace: "shop", Name: "web", Ports: []*configv1.Port{{
		Port: 80, Protocol: configv1.Protocol_PROTOCOL_HTTP,
		Routes: []*configv1.Route{{Backends: []*configv1.Backend{{Service: "shop/web", Port: 80, Weight: 1}}}},
	}}}, nil, upstream.NewSet(upstream.Config{}))
	if err != nil {
		t.Fatal(err)
	}
	used := 0
	client := &exchange.Client{Admitted: true, Binding: &route.Binding{Tunnel: &route.Tunnelled{Port: s.Port(80, false), Used: func() { used++ }}}}
	for want := 1; want <= 3; want++ {
		x := &exchange.Exchange{
			Mesh:  &exchange.Mesh{Table: func() *route.Table { return &route.Table{} }},
			Begun: time.Now(), Request: route.Request{Method: "GET"}, Client: client,
		}
		x.SetTarget("/")
		if reason := x.Decide(); reason != "" || used != want {
			t.Errorf("refused for %q, noticed %d of %d", reason, used, want)
		}
	}
}
