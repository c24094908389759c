package exchange_test

import (
	"testing"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy/exchange"
	"github.com/tulle-mesh/tulle/internal/proxy/meter"
	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/share"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// A request counts from the decision to the end, unless the caller's own proxy counts it.
func TestRequestsTakeTheirShare(t *testing.T) {
	table := &route.Table{Services: map[string]*route.Service{"shop/web": web(t)}}
	mesh := &exchange.Mesh{
		Table: func() *route.Table { return table }, Meter: meter.New(meter.Config{}),
		Strangers: share.New(share.Config{Requests: 1}).Account(""),
	}
	begin := func(admitted bool) (*exchange.Exchange, refusal.Reason) {
		x := &exchange.Exchange{
			Mesh: mesh, Begun: time.Now(), Request: route.Request{Method: "GET"},
			Client: &exchange.Client{Binding: &route.Binding{Service: "shop/web", Port: 80}, Admitted: admitted},
		}
		x.SetTarget("/")
		return x, x.Decide()
	}
	first, reason := begin(false)
	if reason != "" {
		t.Fatal(reason)
	}
	second, reason := begin(false)
	if reason != refusal.OverShare {
		t.Errorf("one too many: %q", reason)
	}
	if _, reason = begin(true); reason != "" {
		t.Errorf("one that counts elsewhere: %q", reason)
	}
	second.Reason = reason
	second.End() // which gives back nothing
	if _, reason = begin(false); reason != refusal.OverShare {
		t.Errorf("after the end of one that was refused: %q", reason)
	}
	first.End()
	if _, reason = begin(false); reason != "" {
		t.Errorf("after the end of the first: %q", reason)
	}
}

// web is a service whose port 80 leads to itself, and has no endpoints.
func web(t *testing.T) *route.Service {
	t.Helper()
	s, err := route.Compile("shop/web", &configv1.Service{Namespace: "shop", Name: "web", Ports: []*configv1.Port{{
		Port: 80, Protocol: configv1.Protocol_PROTOCOL_HTTP,
		Routes: []*configv1.Route{{Backends: []*configv1.Backend{{Service: "shop/web", Port: 80, Weight: 1}}}},
	}}}, nil, upstream.NewSet(upstream.Config{}))
	if err != nil {
		t.Fatal(err)
	}
	return s
}
