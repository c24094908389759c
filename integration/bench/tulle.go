//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/meter"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// firstPort is the target port of the service that is called.
const firstPort = 20001

// bindAddress is one where no other process of this program takes ports.
func bindAddress() string {
	pid := os.Getpid()
	return fmt.Sprintf("127.84.%d.%d", pid>>8&255, pid&255)
}

// sockets let the kernel choose the address of the first port, and tell it.
type sockets struct {
	proxy.Kernel

	tell io.Writer
}

func (o sockets) Listen(ctx context.Context, address string) (net.Listener, error) {
	if !isFirst(address) {
		return o.Kernel.Listen(ctx, address)
	}
	l, err := o.Kernel.Listen(ctx, "127.0.0.1:0")
	if err == nil {
		fmt.Fprintln(o.tell, l.Addr())
	}
	return l, err
}

func (o sockets) ListenPacket(ctx context.Context, address string) (*net.UDPConn, error) {
	if !isFirst(address) {
		return o.Kernel.ListenPacket(ctx, address)
	}
	c, err := o.Kernel.ListenPacket(ctx, "127.0.0.1:0")
	if err == nil {
		fmt.Fprintln(o.tell, c.LocalAddr())
	}
	return c, err
}

func isFirst(address string) bool {
	_, port, err := net.SplitHostPort(address)
	return err == nil && port == strconv.Itoa(firstPort)
}

// serveTulle is the data plane with all of its checks, limits and metrics, and with an access rule.
func serveTulle(ctx context.Context, s spec) error {
	p, err := newTulle(s, client, os.Stdout, nil)
	if err != nil {
		return err
	}
	return p.Run(ctx)
}

// On the loopback everybody has one address; who it is of is a matter of whom the proxy has been told of.
var (
	client = &configv1.Caller{
		Addresses: []string{"127.0.0.1"}, Namespace: "shop", Pod: "client-1", Uid: "1", ServiceAccount: "client", Workload: "deployment/client",
	}
	backend = &configv1.Caller{
		Addresses: []string{"127.0.0.1"}, Namespace: "shop", Pod: "web-0-1", Uid: "2", ServiceAccount: "web-0", Workload: "deployment/web-0",
	}
)

// newTulle makes the data plane of a node on which one pod runs.
func newTulle(s spec, pod *configv1.Caller, tell io.Writer, tunnels upstream.Tunnels) (*proxy.Proxy, error) {
	c := proxy.Config{Sockets: sockets{tell: tell}, Registerer: prometheus.NewRegistry(), Upstream: upstream.Config{Tunnels: tunnels}}
	if s.Log {
		f, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			return nil, err
		}
		c.AccessLog = meter.NewAccessLog(f)
	}
	p := proxy.New(c)
	up, err := netip.ParseAddrPort(s.Up)
	if err != nil {
		return nil, err
	}
	var u configv1.Update
	for i := range s.Services {
		if err := add(&u, s, i, up); err != nil {
			return nil, err
		}
	}
	if s.Node != "" {
		if err := set(&u, s.Node, &configv1.NodeProxies{Ready: pod.GetAddresses(), All: pod.GetAddresses()}); err != nil {
			return nil, err
		}
	}
	if err := set(&u, "me", &configv1.Proxy{Node: nearNode, Callers: []*configv1.Caller{pod}}); err != nil {
		return nil, err
	}
	if refused := p.Apply(u); len(refused) > 0 {
		return nil, fmt.Errorf("refused: %v", refused)
	}
	return p, nil
}

// add adds a service with its endpoint and policy.
func add(u *configv1.Update, s spec, i int, up netip.AddrPort) error {
	name := "web-" + strconv.Itoa(i)
	id := "shop/" + name
	protocol := map[string]configv1.Protocol{
		"http": configv1.Protocol_PROTOCOL_HTTP, "tcp": configv1.Protocol_PROTOCOL_TCP, "udp": configv1.Protocol_PROTOCOL_UDP,
	}[s.Protocol]
	rule := map[string]*configv1.Rule{
		"http": {Kind: configv1.RuleKind_RULE_KIND_HTTP, Name: "reads"},
		"tcp":  {Kind: configv1.RuleKind_RULE_KIND_TCP, Name: "all"},
		"udp":  {Kind: configv1.RuleKind_RULE_KIND_UDP, Name: "all"},
	}[s.Protocol]
	service := &configv1.Service{Namespace: "shop", Name: name, BindAddress: bindAddress()}
	endpoints := &configv1.Endpoints{Namespace: "shop", Name: name}
	for j := range max(s.Ports, 1) {
		port := uint32(80 + j)                              // #nosec G115
		target := uint32(firstPort + i*max(s.Ports, 1) + j) // #nosec G115
		service.Ports = append(service.Ports, &configv1.Port{
			Port: port, Protocol: protocol, TargetPort: target,
			Routes: []*configv1.Route{{Backends: []*configv1.Backend{{Service: id, Port: port, Weight: 1}}}},
		})
		endpoints.Ports = append(endpoints.Ports, &configv1.EndpointPort{Port: port, Udp: s.Protocol == "udp", Endpoints: []*configv1.Endpoint{{
			Address: up.Addr().String(), Port: uint32(up.Port()), Pod: name + "-1", Node: s.Node, Workload: id, Protected: !s.Bare,
		}}})
	}
	return errors.Join(set(u, id, endpoints), set(u, id, service), set(u, id, &configv1.Policy{
		Namespace: "shop", ServiceAccount: name, Mode: configv1.AccessMode_ACCESS_MODE_ENFORCE,
		Grants: []*configv1.Grant{{
			Target: "shop/allow", Rules: []*configv1.Rule{rule}, Sources: []*configv1.Source{{Namespace: "shop", ServiceAccount: "client"}},
		}},
		Groups: []*configv1.MatchGroup{{Name: "shop/reads", Matches: []*configv1.Match{{PathRegex: "^(?:/a/.*)", Methods: []string{"GET"}}}}},
	}))
}

func set(u *configv1.Update, name string, m proto.Message) error {
	r, err := configv1.NewResource(name, m)
	u.Set = append(u.Set, r)
	return err
}

// serveSizes sets a proxy up with as many services as s says, tells how long a change of one of them takes, and waits to
// be measured.
func serveSizes(ctx context.Context, s spec) error {
	begun := time.Now()
	p, err := newTulle(s, client, io.Discard, nil)
	if err != nil {
		return err
	}
	setUp := time.Since(begun)
	var took []time.Duration
	for i := range 101 {
		other := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(1000+i)) // #nosec G115
		var u configv1.Update
		if err := add(&u, s, s.Services-1, other); err != nil {
			return err
		}
		begun := time.Now()
		if refused := p.Apply(u); len(refused) > 0 {
			return fmt.Errorf("refused: %v", refused)
		}
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	debug.FreeOSMemory() // as the worker does once a whole config is in use
	fmt.Println(setUp, took[len(took)/2])
	return p.Run(ctx)
}
