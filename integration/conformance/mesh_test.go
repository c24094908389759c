// Package conformance puts other people's tests of protocols to the data plane. What they need is kept out of the
// project's own module.
package conformance

import (
	"context"
	"net"
	"net/netip"
	"testing"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy"
)

// sockets tell the address that the proxy's only listener got.
type sockets struct {
	proxy.Kernel

	opened chan net.Addr
}

func (s sockets) Listen(ctx context.Context, _ string) (net.Listener, error) {
	l, err := s.Kernel.Listen(ctx, "127.0.0.1:0")
	if err == nil {
		s.opened <- l.Addr()
	}
	return l, err
}

// mesh starts a data plane with one service, and returns where that listens.
func mesh(t *testing.T, scheme configv1.Scheme, up net.Addr) *net.TCPAddr {
	t.Helper()
	s := sockets{opened: make(chan net.Addr, 1)}
	p := proxy.New(proxy.Config{Sockets: s})
	to := netip.MustParseAddrPort(up.String())
	endpoints, err := configv1.NewResource("shop/web", &configv1.Endpoints{
		Namespace: "shop", Name: "web",
		Ports: []*configv1.EndpointPort{{Port: 80, Endpoints: []*configv1.Endpoint{{Address: to.Addr().String(), Port: uint32(to.Port())}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	service, err := configv1.NewResource("shop/web", &configv1.Service{
		Namespace: "shop", Name: "web", BindAddress: "127.0.0.1",
		Ports: []*configv1.Port{{
			Port: 80, Protocol: configv1.Protocol_PROTOCOL_HTTP, TargetPort: 20001,
			Routes: []*configv1.Route{{Backends: []*configv1.Backend{{Service: "shop/web", Port: 80, Weight: 1, Scheme: scheme}}}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if refused := p.Apply(configv1.Update{Set: []configv1.Resource{endpoints, service}}); len(refused) > 0 {
		t.Fatal(refused)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return (<-s.opened).(*net.TCPAddr)
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}
