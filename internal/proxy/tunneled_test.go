package proxy_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/tunnel"
)

// here is a proxy on whose node the pod shop/api-1 runs, the second port of which nobody exposes.
func here(t *testing.T, exposed netip.AddrPort, udp bool) *proxy.Proxy {
	t.Helper()
	endpoint := func(addr string, port uint32) *configv1.Endpoint {
		return &configv1.Endpoint{Address: addr, Port: port}
	}
	var u configv1.Update
	for name, m := range map[string]proto.Message{
		"p1": &configv1.Proxy{Node: "node-b", Callers: []*configv1.Caller{{
			Addresses: []string{exposed.Addr().String()}, Namespace: "shop", Pod: "api-1", ServiceAccount: "api",
		}}},
		"shop/api": &configv1.Endpoints{Namespace: "shop", Name: "api", Ports: []*configv1.EndpointPort{{
			Port: 80, Udp: udp, Endpoints: []*configv1.Endpoint{endpoint(exposed.Addr().String(), uint32(exposed.Port())), endpoint("10.1.2.3", 8080)},
		}}},
	} {
		r, err := configv1.NewResource(name, m)
		if err != nil {
			t.Fatal(err)
		}
		u.Set = append(u.Set, r)
	}
	p := proxy.New(proxy.Config{})
	if refused := p.Apply(u); len(refused) > 0 {
		t.Fatal(refused)
	}
	return p
}

func TestTunnelsLeadToThisNodesExposedPortsOnly(t *testing.T) {
	at := netip.MustParseAddrPort
	good := tunnel.Destination{Address: at("10.1.0.1:8080"), Pod: "shop/api-1", Service: "shop/api", Port: 80}
	p := here(t, good.Address, false)
	for _, tc := range []struct {
		what string
		edit func(*tunnel.Destination)
		want tunnel.Reason
	}{
		{"as it is", func(*tunnel.Destination) {}, ""},
		{"HTTP", func(d *tunnel.Destination) { d.HTTP = true }, ""},
		{"a pod of another node", func(d *tunnel.Destination) { d.Address, d.Pod = at("10.1.2.3:8080"), "shop/api-2" }, tunnel.NotHere},
		{"the node itself", func(d *tunnel.Destination) { d.Address = at("127.0.0.1:8080") }, tunnel.NotHere},
		{"another pod's name", func(d *tunnel.Destination) { d.Pod = "shop/api-0" }, tunnel.NotHere},
		{"another namespace's pod", func(d *tunnel.Destination) { d.Pod = "other/api-1" }, tunnel.NotHere},
		{"a port that no Service exposes", func(d *tunnel.Destination) { d.Address = at("10.1.0.1:9090") }, tunnel.NotExposed},
		{"the Service's port is another", func(d *tunnel.Destination) { d.Port = 81 }, tunnel.NotExposed},
		{"UDP where TCP is exposed", func(d *tunnel.Destination) { d.UDP = true }, tunnel.NotExposed},
		{"another Service", func(d *tunnel.Destination) { d.Service = "shop/web" }, tunnel.NotExposed},
	} {
		d := good
		tc.edit(&d)
		if got := p.CheckTunnel(d); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.what, got, tc.want)
		}
	}
	if got := proxy.New(proxy.Config{}).CheckTunnel(good); got != tunnel.NotHere {
		t.Errorf("before any config: %q", got)
	}
}

// svids gives the SVIDs of one node.
type svids struct {
	t    *testing.T
	by   *identity.Authority
	node string
}

func (s svids) Bundle() *identity.Bundle { return s.by.Bundle() }

func (s svids) SVID(_ context.Context, id identity.ID) (*identity.SVID, error) {
	key, csr, err := identity.NewRequest()
	if err != nil {
		return nil, err
	}
	namespace, account, _ := identity.SplitAccount(id)
	chain, err := s.by.Sign(csr, namespace, account, s.node, time.Now())
	if err != nil {
		return nil, err
	}
	return identity.NewSVID(chain, key, s.by.Bundle(), time.Now())
}

// tunnelTo returns a client of another node and the address that leads to p.
func tunnelTo(t *testing.T, p *proxy.Proxy) (c *tunnel.Client, caller identity.ID) {
	t.Helper()
	td, err := identity.ParseTrustDomain("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	root, err := identity.NewRoot(td, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	by := identity.NewAuthority(identity.AuthorityConfig{TrustDomain: td})
	by.Update(identity.Record(nil).Next(root.Roots(), time.Now(), time.Hour), root)
	self, err := identity.Account(td, "tulle-system", "tulle-proxy")
	if err != nil {
		t.Fatal(err)
	}
	if caller, err = identity.Account(td, "shop", "web"); err != nil {
		t.Fatal(err)
	}
	who := func() identity.ID { return self }
	s := tunnel.NewServer(tunnel.ServerConfig{
		Source: svids{t, by, "node-b"}, Self: who, Check: p.CheckTunnel, Handler: p.ServeTunnel,
		Peer: func(netip.Addr) (string, bool) { return "node-a", true },
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	c = tunnel.NewClient(tunnel.ClientConfig{
		Source: svids{t, by, "node-a"}, Self: who,
		Proxies: func(string) []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort(l.Addr().String())} },
	})
	t.Cleanup(func() {
		c.Close()
		l.Close()
		s.Cut()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return c, caller
}

func TestTunnelledTCPKeepsItsHalves(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all, _ := io.ReadAll(c)
			_, _ = c.Write(append(all, " and thanks"...))
			c.Close()
		}
	}()
	api := netip.MustParseAddrPort(l.Addr().String())
	c, caller := tunnelTo(t, here(t, api, false))
	for range 3 {
		conn, err := c.Dial(t.Context(), caller, "node-b", tunnel.Destination{Address: api, Pod: "shop/api-1", Service: "shop/api", Port: 80})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(conn); err != nil || string(got) != "hello and thanks" {
			t.Errorf("%q, %v", got, err)
		}
		conn.Close()
	}
}

func TestTunnelledDatagrams(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(b[:n], from)
		}
	}()
	api := netip.MustParseAddrPort(pc.LocalAddr().String())
	c, caller := tunnelTo(t, here(t, api, true))
	conn, err := c.Dial(t.Context(), caller, "node-b", tunnel.Destination{UDP: true, Address: api, Pod: "shop/api-1", Service: "shop/api", Port: 80})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b := make([]byte, 1<<16)
	for _, text := range []string{"one", "two", ""} {
		if _, err := conn.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(b); err != nil || string(b[:n]) != text {
			t.Errorf("%q, %v", b[:n], err)
		}
	}
}
