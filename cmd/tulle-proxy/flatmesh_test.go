//go:build linux

package main

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

const (
	flatCalled  = 200                    // so many of the many services are called
	flatTenants = 16                     // namespaces of callers, each with an address
	flatEvery   = 250 * time.Millisecond // between two changes of the config
	flatLives   = 20                     // changes for which an added service is there
)

// The target ports of the services. Those that come and go begin behind the last, those that stay at manyPort.
const (
	webPort = 20001 + iota
	h2cPort
	splitPort
	tcpPort
	udpPort
	nobodyPort // its endpoint refuses
	manyPort   = 21001
	comesPort  = manyPort + flatServices
)

// flatMesh is the config of a node, which one goroutine (churn) changes.
type flatMesh struct {
	t        *testing.T
	c        *fakeController
	backends *flatBackends
	bind     string // an address of the loopback that no other test process uses
	now      map[configv1.Key]configv1.Resource
	changes  atomic.Int64
}

func newFlatMesh(t *testing.T, c *fakeController, b *flatBackends) *flatMesh {
	t.Helper()
	pid := os.Getpid()
	m := &flatMesh{t: t, c: c, backends: b, bind: fmt.Sprintf("127.85.%d.%d", pid>>8&255, pid&255), now: map[configv1.Key]configv1.Resource{}}
	m.set("mesh", &configv1.Mesh{Zones: []string{"mesh"}, ClusterDomain: "cluster.local"})
	m.add("nobody", nobodyPort, "127.0.0.1:1")
	m.add("tcp", tcpPort, b.tcp)
	m.add("udp", udpPort, b.udp)
	for i := range flatServices {
		m.add("many-"+strconv.Itoa(i), manyPort+i, b.http[i%len(b.http)])
	}
	m.change(0)
	m.publish(0)
	return m
}

func (m *flatMesh) at(port int) string { return fmt.Sprintf("%s:%d", m.bind, port) }
func (m *flatMesh) many(i int) string  { return m.at(manyPort + i) }

// newest is a service that has been there for some changes.
func (m *flatMesh) newest() string {
	return m.at(comesPort + int(max(m.changes.Load()-flatLives/2, 0))%1000)
}

// caller is the address of a tenant's pod.
func (m *flatMesh) caller(tenant int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, 86, byte(os.Getpid()), byte(1 + tenant%flatTenants)})
}

// churn changes the config again and again.
func (m *flatMesh) churn(ctx context.Context) {
	tick := time.NewTicker(flatEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		n := int(m.changes.Load()) + 1
		m.change(n)
		m.add("comes-"+strconv.Itoa(n), comesPort+n%1000, m.backends.http[n%len(m.backends.http)])
		m.remove(n - flatLives)
		m.publish(n)
		m.changes.Store(int64(n))
	}
}

// reset makes the config what it was at first.
func (m *flatMesh) reset() {
	for n := int(m.changes.Load()); n > 0 && m.remove(n); n-- {
	}
	m.change(0)
	m.publish(0)
}

// change makes the n-th change to what is called most: new endpoints, another split, other rules.
func (m *flatMesh) change(n int) {
	web := func(j int) *configv1.Endpoint {
		e := flatEndpoint(m.t, m.backends.http[j%len(m.backends.http)])
		e.Pod, e.Workload, e.Protected = "web-"+strconv.Itoa(j), "shop/web", true
		return e
	}
	old := web(n)
	old.Draining = true
	m.service("web", webPort, configv1.Protocol_PROTOCOL_HTTP, &configv1.Route{Backends: []*configv1.Backend{{Service: "shop/web", Port: 80, Weight: 1}}})
	m.endpoints("web", old, web(n+1), web(n+2))
	m.service("h2c", h2cPort, configv1.Protocol_PROTOCOL_HTTP, &configv1.Route{Backends: []*configv1.Backend{{Service: "shop/web", Port: 80, Weight: 1, Scheme: configv1.Scheme_SCHEME_H2C}}})
	m.service("split", splitPort, configv1.Protocol_PROTOCOL_HTTP, &configv1.Route{
		Split:    "shop/split-" + strconv.Itoa(n),
		Matches:  []*configv1.Match{{PathRegex: fmt.Sprintf("^(?:/(.*|%d))$", n)}},
		Backends: []*configv1.Backend{{Service: "shop/web", Port: 80, Weight: 1 + uint32(n%7)}, {Service: "shop/many-0", Port: 80, Weight: 3}},
	})
	rule := &configv1.Rule{Kind: configv1.RuleKind_RULE_KIND_HTTP, Name: "rule-" + strconv.Itoa(n)}
	policy := &configv1.Policy{
		Namespace: "shop", ServiceAccount: "web", Mode: configv1.AccessMode_ACCESS_MODE_ENFORCE,
		Groups: []*configv1.MatchGroup{{Name: "shop/all", Matches: []*configv1.Match{{PathRegex: fmt.Sprintf("^(?:/(.*|%d))", n)}}}},
	}
	for i := range flatTenants {
		policy.Grants = append(policy.Grants, &configv1.Grant{
			Target: "shop/allow", Rules: []*configv1.Rule{rule}, Sources: []*configv1.Source{{Namespace: tenant(i, n), ServiceAccount: "client"}},
		})
	}
	m.set("shop/web", policy)
	s := n % flatServices
	m.add("many-"+strconv.Itoa(s), manyPort+s, m.backends.http[(s+n)%len(m.backends.http)])
}

// tenant is a caller's namespace. The first half of them stays, the others change and come back: the metrics of a caller
// stay as long as the service's that it called.
func tenant(i, n int) string {
	if i < flatTenants/2 {
		n = 0
	}
	return fmt.Sprintf("tenant-%d-%d", i, n/10%3)
}

// add sets a service of one port with one endpoint.
func (m *flatMesh) add(name string, port int, endpoint string) {
	protocol := map[int]configv1.Protocol{tcpPort: configv1.Protocol_PROTOCOL_TCP, udpPort: configv1.Protocol_PROTOCOL_UDP}[port]
	if protocol == 0 {
		protocol = configv1.Protocol_PROTOCOL_HTTP
	}
	m.service(name, port, protocol, &configv1.Route{Backends: []*configv1.Backend{{Service: "shop/" + name, Port: 80, Weight: 1}}})
	e := flatEndpoint(m.t, endpoint)
	e.Pod = name + "-pod"
	m.endpoints(name, e)
}

// remove removes the service that came with the n-th change, if it is there.
func (m *flatMesh) remove(n int) bool {
	name := "shop/comes-" + strconv.Itoa(n)
	_, had := m.now[configv1.Key{Type: configv1.ServiceType, Name: name}]
	delete(m.now, configv1.Key{Type: configv1.ServiceType, Name: name})
	delete(m.now, configv1.Key{Type: configv1.EndpointsType, Name: name})
	return had
}

func (m *flatMesh) service(name string, port int, protocol configv1.Protocol, route *configv1.Route) {
	m.set("shop/"+name, &configv1.Service{
		Namespace: "shop", Name: name, Addresses: []string{"10.96.0.7"}, BindAddress: m.bind,
		// Flows of UDP end soon, so that those that come and those that go are as many before long.
		Ports: []*configv1.Port{{Port: 80, Protocol: protocol, TargetPort: uint32(port), Routes: []*configv1.Route{route}, IdleTimeoutMs: map[int]uint64{udpPort: 2000}[port]}},
	})
}

func (m *flatMesh) endpoints(name string, all ...*configv1.Endpoint) {
	m.set("shop/"+name, &configv1.Endpoints{Namespace: "shop", Name: name, Ports: []*configv1.EndpointPort{{Port: 80, Udp: name == "udp", Endpoints: all}}})
}

func (m *flatMesh) set(name string, message proto.Message) {
	r := resource(m.t, name, message)
	m.now[r.Key] = r
}

// publish sends what is, and whose addresses callers have.
func (m *flatMesh) publish(n int) {
	own := &configv1.Proxy{Node: "node-1", InSlices: true}
	for i := range flatTenants {
		own.Callers = append(own.Callers, &configv1.Caller{
			Addresses: []string{m.caller(i).String()}, Namespace: tenant(i, n), Pod: "client", Uid: tenant(i, n),
			ServiceAccount: "client", Workload: "deployment/client",
		})
	}
	common := slices.SortedFunc(maps.Values(m.now), func(a, b configv1.Resource) int { return a.Compare(b.Key) })
	m.c.Publish(common, map[string][]configv1.Resource{podName: {resource(m.t, podName, own)}})
}

func flatEndpoint(t *testing.T, address string) *configv1.Endpoint {
	t.Helper()
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return &configv1.Endpoint{Address: a.Addr().String(), Port: uint32(a.Port())}
}
