package proxyconfig_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxyconfig"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// mesh makes services of four endpoints each, and four callers for each service.
func mesh(services int) topology.Topology {
	var t topology.Topology
	for i := range services {
		name := topology.Name{Namespace: fmt.Sprintf("ns-%03d", i/10), Name: fmt.Sprintf("svc-%04d", i)}
		s := topology.Service{Name: name, ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{100, 0, byte(i >> 8), byte(i)})}}
		p := topology.Port{Number: 80, Protocol: topology.HTTP, Routes: []topology.Route{{Backends: []topology.Backend{{Service: name, Port: 80, Weight: 1}}}}}
		for j := range 4 {
			addr := netip.AddrFrom4([4]byte{10, byte(j), byte(i >> 8), byte(i)})
			node := fmt.Sprintf("node-%03d", (i+j)%500)
			p.Endpoints = append(p.Endpoints, topology.Endpoint{Address: addr, Port: 8080, Node: node, Pod: fmt.Sprintf("%s-%d", name.Name, j)})
			t.Callers = append(t.Callers, topology.Caller{Node: node, Addresses: []netip.Addr{addr}, Namespace: name.Namespace, Pod: fmt.Sprintf("%s-%d", name.Name, j), Workload: "deployment/" + name.Name})
		}
		s.Ports = []topology.Port{p}
		t.Services = append(t.Services, s)
	}
	return t
}

func versions(t *testing.T, topo topology.Topology) map[configv1.Key]string {
	t.Helper()
	resources, err := proxyconfig.Build(proxyconfig.Config{}, topo, shadow.Assigned{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSortedFunc(resources, func(a, b configv1.Resource) int { return a.Compare(b.Key) }) {
		t.Error("the resources are not sorted")
	}
	out := map[configv1.Key]string{}
	for _, r := range resources {
		out[r.Key] = r.Version
	}
	return out
}

// TestOnlyWhatChangedChanges: an endpoint that goes is a new version of its service's Endpoints and of nothing else.
func TestOnlyWhatChangedChanges(t *testing.T) {
	topo := mesh(30)
	before := versions(t, topo)
	p := &topo.Services[7].Ports[0]
	p.Endpoints = p.Endpoints[:3]
	changed := configv1.Key{Type: configv1.EndpointsType, Name: topo.Services[7].Name.String()}
	for key, version := range versions(t, topo) {
		if same := version == before[key]; same == (key == changed) {
			t.Errorf("%v: same version %v", key, same)
		}
	}
}

// BenchmarkBuild is all that a change costs after the topology: 5,000 services.
func BenchmarkBuild(b *testing.B) {
	topo := mesh(5000)
	for b.Loop() {
		if _, err := proxyconfig.Build(proxyconfig.Config{}, topo, shadow.Assigned{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkProxies is the same for the 20,000 pods of 500 nodes.
func BenchmarkProxies(b *testing.B) {
	topo := mesh(5000)
	var proxies []shadow.Proxy
	for i := range 500 {
		proxies = append(proxies, shadow.Proxy{Pod: fmt.Sprintf("proxy-%d", i), Node: fmt.Sprintf("node-%03d", i)})
	}
	for b.Loop() {
		if _, err := proxyconfig.Proxies(topo, proxyconfig.Own{Proxies: proxies}); err != nil {
			b.Fatal(err)
		}
	}
}
