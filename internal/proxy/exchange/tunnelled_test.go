package exchange_test

import (
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/exchange"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
)

// Every request that comes by tunnel is told of, also those that come on one connection.
func TestTunnelledRequestsAreNoticed(t *testing.T) {
	used := 0
	client := &exchange.Client{Admitted: true, Binding: &route.Binding{Tunnel: &route.Tunnelled{Port: web(t).Port(80, false), Used: func() { used++ }}}}
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
