//go:build linux

package main

import (
	"fmt"
	"math"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

const (
	quietNamespace = "shop"
	loudNamespace  = "noisy"
	loudBody       = "loud"
	// loudRoutes make a request cost the proxy more than its client and backend, or it would be their CPU that is saturated.
	loudRoutes = 150
	saturating = 64 // connections that keep the proxy busy
	// tenantMemory is what the proxy makes of the memory that the chart grants it: 1 GiB.
	tenantMemory = 1 << 30 / 10 * 9
)

// tenantRig is a proxy with a CPU of its own and what is around it.
type tenantRig struct {
	t                       *testing.T
	proxy                   *proxyProcess
	worker                  int // its process ID
	backend, sink           *tenantChild
	quiet, loud, drain      string // where the clients call: the proxy, and the sink
	quietBody               string
	quietCaller, loudCaller string
	length                  time.Duration
	saturated               float64 // requests of the loud tenant's that the proxy serves a second
	depth                   int     // requests that wait on each of its connections
}

func newTenantRig(t *testing.T, cpu int, length time.Duration) *tenantRig {
	t.Helper()
	pid := os.Getpid()
	address := func(last int) string { return fmt.Sprintf("127.87.%d.%d", pid&255, last) }
	r := &tenantRig{
		t: t, length: length, quietBody: strings.Repeat("quiet ", 170), quietCaller: address(1), loudCaller: address(2),
	}
	_, quietBackend := r.serve(&serving{Body: r.quietBody}, ownNice)
	backend, loudBackend := r.serve(&serving{Body: loudBody}, loudNice)
	r.backend = backend
	backends := map[string]string{quietNamespace: quietBackend, loudNamespace: loudBackend}

	c := startController(t)
	ports := freePorts(t, 2)
	bind := "127.0.0.1"
	r.quiet, r.loud = fmt.Sprintf("%s:%d", bind, ports[0]), fmt.Sprintf("%s:%d", bind, ports[1])
	common := []configv1.Resource{resource(t, "mesh", &configv1.Mesh{Zones: []string{"mesh"}, ClusterDomain: "cluster.local"})}
	for i, namespace := range []string{quietNamespace, loudNamespace} {
		common = append(common, tenantService(t, namespace, ports[i], backends[namespace], i*loudRoutes)...)
	}
	sortResources(common)
	own := &configv1.Proxy{Node: "node-1", InSlices: true}
	for namespace, a := range map[string]string{quietNamespace: r.quietCaller, loudNamespace: r.loudCaller} {
		own.Callers = append(own.Callers, &configv1.Caller{
			Addresses: []string{a}, Namespace: namespace, Pod: "client", Uid: namespace, ServiceAccount: "client", Workload: "deployment/client",
		})
	}
	c.Publish(common, map[string][]configv1.Resource{podName: {resource(t, podName, own)}})

	r.proxy = newProxy(t, c, t.TempDir(), "--identity", "off")
	r.proxy.cmd.Env = append(r.proxy.cmd.Env, "GOMEMLIMIT="+strconv.Itoa(tenantMemory))
	r.proxy.startOn(cpu)
	r.proxy.waitReady()
	r.worker = r.proxy.status().PID
	return r
}

// serve starts a backend or the sink, and returns its address.
func (r *tenantRig) serve(s *serving, nice int) (c *tenantChild, at string) {
	r.t.Helper()
	c = startRole(r.t, "serving", s, nice)
	c.hear(&at)
	return c, at
}

// tenantService is a service web of one endpoint, with so many routes for other paths than those that are called.
func tenantService(t *testing.T, namespace string, port int, backend string, others int) []configv1.Resource {
	t.Helper()
	host, number, err := net.SplitHostPort(backend)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	id := namespace + "/web"
	to := []*configv1.Backend{{Service: id, Port: 80, Weight: 1}}
	var routes []*configv1.Route
	for i := range others {
		routes = append(routes, &configv1.Route{Matches: []*configv1.Match{{PathRegex: fmt.Sprintf("^(?:.*/other-%d)$", i)}}, Backends: to})
	}
	return []configv1.Resource{
		resource(t, id, &configv1.Service{
			Namespace: namespace, Name: "web", Addresses: []string{"10.96.0.7"}, BindAddress: "127.0.0.1",
			Ports: []*configv1.Port{{
				Port: 80, Protocol: configv1.Protocol_PROTOCOL_HTTP, TargetPort: uint32(port),
				Routes: append(routes, &configv1.Route{Backends: to}),
			}},
		}),
		resource(t, id, &configv1.Endpoints{Namespace: namespace, Name: "web", Ports: []*configv1.EndpointPort{{
			Port: 80, Endpoints: []*configv1.Endpoint{{Address: host, Port: uint32(n), Pod: "web-1"}},
		}}}),
	}
}

// saturate measures what the proxy serves of the loud tenant's requests when it does nothing else, and has as many wait
// in a round as are more than it could serve, by the times that are wanted and half as much again.
func (r *tenantRig) saturate() {
	r.t.Helper()
	c := r.startLoud(&loud{Address: r.loud, From: r.loudCaller, Greedy: saturating, Depth: 256, Pause: 50 * time.Millisecond})
	defer c.end()
	before, cpu, loadCPU := c.now(), usedCPU(r.t, r.worker), r.usedByLoad(c)
	wait(r.t.Context(), 2*time.Second)
	after, used, load := c.now(), usedCPU(r.t, r.worker)-cpu, r.usedByLoad(c)-loadCPU
	took := after.At.Sub(before.At)
	r.saturated = float64(after.Served-before.Served) / took.Seconds()
	busy := used.Seconds() / took.Seconds()
	r.t.Logf("saturated: %d connections get %.0f answers a second and take %.0f%% of the proxy's CPU; client and backend take %.0f%% of theirs",
		saturating, r.saturated, 100*busy, 100*load.Seconds()/took.Seconds())
	if busy < 0.85 {
		r.t.Fatalf("the proxy takes %.0f%% of its CPU: something else limits it", 100*busy)
	}
	c.end()
	r.settle()
	// The sink takes what the proxy would, so that the load's part of the CPU is about the same in both.
	r.sink, r.drain = r.serve(&serving{Body: loudBody, Rate: r.saturated}, loudNice)
	r.depth = max(int(math.Ceil(1.5*tenantTimes*r.saturated*r.length.Seconds()/greedy)), 16)
}

var loudConnections = regexp.MustCompile(`(?m)^tulle_proxy_tenant_connections\{source_namespace="` + loudNamespace + `"\} (\d+)$`)

// connections are the loud tenant's at the proxy.
func (r *tenantRig) connections() int {
	_, page, err := get("http://" + r.proxy.metrics + "/metrics")
	if err != nil {
		return -1 // it may be too busy
	}
	found := loudConnections.FindStringSubmatch(page)
	if found == nil {
		return 0
	}
	n, _ := strconv.Atoi(found[1]) // it is one
	return n
}

// settle waits until the proxy has forgotten the flood.
func (r *tenantRig) settle() {
	r.t.Helper()
	eventually(r.t, "the proxy has got rid of the flood", func() bool { return r.connections() == 0 })
}
