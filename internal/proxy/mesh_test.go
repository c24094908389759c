package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy"
)

// mesh is a running Proxy on loopback sockets, and what a controller would tell it.
type mesh struct {
	*proxy.Proxy
	t       testing.TB
	sockets *sockets
	metrics *prometheus.Registry
	stop    func()
}

// start runs a proxy with a Mesh and a Proxy resource.
func start(t *testing.T, change ...func(*proxy.Config)) *mesh {
	t.Helper()
	m := &mesh{t: t, sockets: newSockets(), metrics: prometheus.NewRegistry()}
	c := proxy.Config{Sockets: m.sockets, Registerer: m.metrics, DrainIdle: 50 * time.Millisecond}
	for _, f := range change {
		f(&c)
	}
	m.Proxy = proxy.New(c)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context())) // t.Context ends before the clean-up
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	m.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("run: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("run did not return")
		}
	})
	t.Cleanup(m.stop)
	m.set("mesh", &configv1.Mesh{Zones: []string{"mesh"}, ClusterDomain: "cluster.local"})
	m.set("me", &configv1.Proxy{Node: "here", InSlices: true, Callers: []*configv1.Caller{{
		Addresses: []string{"127.0.0.1"}, Namespace: "shop", Pod: "client-1", ServiceAccount: "client", Workload: "deployment/client",
	}}})
	return m
}

// set applies one resource, which must be accepted.
func (m *mesh) set(name string, message proto.Message) {
	m.t.Helper()
	if refused := m.try(name, message); len(refused) > 0 {
		m.t.Fatalf("refused: %+v", refused)
	}
}

func (m *mesh) try(name string, message proto.Message) []configv1.Refusal {
	m.t.Helper()
	return m.Apply(configv1.Update{Set: []configv1.Resource{m.resource(name, message)}})
}

func (m *mesh) resource(name string, message proto.Message) configv1.Resource {
	m.t.Helper()
	r, err := configv1.NewResource(name, message)
	if err != nil {
		m.t.Fatal(err)
	}
	return r
}

func (m *mesh) remove(message proto.Message, name string) {
	m.t.Helper()
	refused := m.Apply(configv1.Update{Removed: []configv1.Key{{Type: configv1.TypeURL(message), Name: name}}})
	if len(refused) > 0 {
		m.t.Fatalf("refused: %+v", refused)
	}
}

const (
	httpPort = configv1.Protocol_PROTOCOL_HTTP
	tcpPort  = configv1.Protocol_PROTOCOL_TCP
	udpPort  = configv1.Protocol_PROTOCOL_UDP
)

// service describes shop/<name> with one port that sends everything to its own endpoints.
func service(name string, protocol configv1.Protocol, port, target uint32) *configv1.Service {
	return &configv1.Service{
		Namespace: "shop", Name: name, Addresses: []string{"10.0.0.1"}, BindAddress: "127.0.0.1",
		Ports: []*configv1.Port{{
			Port: port, Protocol: protocol, TargetPort: target,
			Routes: []*configv1.Route{{Backends: []*configv1.Backend{{Service: "shop/" + name, Port: port, Weight: 1}}}},
		}},
	}
}

// endpoints describes the endpoints of shop/<name>.
func endpoints(name string, protocol configv1.Protocol, port uint32, addresses ...string) *configv1.Endpoints {
	list := &configv1.EndpointPort{Port: port, Udp: protocol == udpPort}
	for i, a := range addresses {
		ap := netip.MustParseAddrPort(a)
		list.Endpoints = append(list.Endpoints, &configv1.Endpoint{
			Address: ap.Addr().String(), Port: uint32(ap.Port()), Pod: fmt.Sprintf("%s-%d", name, i),
		})
	}
	return &configv1.Endpoints{Namespace: "shop", Name: name, Ports: []*configv1.EndpointPort{list}}
}

// serve adds a service with endpoints and returns the address to call it at.
func (m *mesh) serve(name string, protocol configv1.Protocol, addresses ...string) string {
	m.t.Helper()
	target := m.sockets.free()
	m.set("shop/"+name, endpoints(name, protocol, 80, addresses...))
	m.set("shop/"+name, service(name, protocol, 80, target))
	return m.sockets.address(protocol, target)
}

// sockets hands out loopback sockets of ports that the kernel chose: target ports stand for them, so that no test
// takes a port from another.
type sockets struct {
	mu      sync.Mutex
	next    uint32
	real    map[string]string // by network and address as asked for
	busy    map[string]error
	release []string
}

func newSockets() *sockets {
	return &sockets{next: 20000, real: map[string]string{}, busy: map[string]error{}}
}

func (s *sockets) free() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	return s.next
}

func (s *sockets) address(protocol configv1.Protocol, target uint32) string {
	network := "tcp"
	if protocol == udpPort {
		network = "udp"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, host := range []string{"127.0.0.1", ""} {
		if a, ok := s.real[network+" "+net.JoinHostPort(host, fmt.Sprint(target))]; ok {
			return a
		}
	}
	return ""
}

func (s *sockets) block(key string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		delete(s.busy, key)
	} else {
		s.busy[key] = err
	}
}

func (s *sockets) Listen(ctx context.Context, address string) (net.Listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := "tcp " + address
	if err := s.busy[key]; err != nil {
		return nil, err
	}
	host, _, _ := net.SplitHostPort(address)
	if host == "" {
		host = "127.0.0.1"
	}
	l, err := proxy.Kernel{}.Listen(ctx, net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, err
	}
	s.real[key] = l.Addr().String()
	return l, nil
}

func (s *sockets) ListenPacket(ctx context.Context, address string) (*net.UDPConn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := "udp " + address
	if err := s.busy[key]; err != nil {
		return nil, err
	}
	host, _, _ := net.SplitHostPort(address)
	c, err := proxy.Kernel{}.ListenPacket(ctx, net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(c.LocalAddr().String())
	if host == "" {
		host = "127.0.0.1"
	}
	s.real[key] = net.JoinHostPort(host, port)
	return c, nil
}

func (s *sockets) Release(network, address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.real, network+" "+address)
	s.release = append(s.release, network+" "+address)
}

// backend is an HTTP server that says its name.
func backend(t testing.TB, handler http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func says(t testing.TB, name string) string {
	t.Helper()
	return backend(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) })
}

// eventually polls until f is nil.
func eventually(t testing.TB, f func() error) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		<-time.After(5 * time.Millisecond)
	}
}

var errNotYet = errors.New("not yet")

// unused is an address where nobody listens.
func unused(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func quickLimits(c *proxy.Config) {
	c.HeaderTimeout, c.HTTPIdle = 500*time.Millisecond, 500*time.Millisecond
}
