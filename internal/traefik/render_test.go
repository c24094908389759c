package traefik_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/smi"
	"github.com/tulle-mesh/tulle/internal/topology"
	"github.com/tulle-mesh/tulle/internal/traefik"
)

// mesh makes services of four endpoints each; every tenth is split by a path and a header.
func mesh(services int) topology.Topology {
	var t topology.Topology
	name := func(i int) topology.Name {
		return topology.Name{Namespace: fmt.Sprintf("ns-%03d", i/10), Name: fmt.Sprintf("svc-%04d", i)}
	}
	own := func(i int, weight int64) topology.Backend {
		return topology.Backend{Service: name(i), Port: 80, Weight: weight, Scheme: topology.SchemeHTTP}
	}
	for i := range services {
		p := topology.Port{Number: 80, Protocol: topology.HTTP, Scheme: topology.SchemeHTTP, RetryAttempts: 2}
		if i%10 == 0 {
			p.Routes = append(p.Routes, topology.Route{
				Split:    &topology.Name{Namespace: name(i).Namespace, Name: "split"},
				Matches:  []smi.HTTPMatch{{PathRegex: fmt.Sprintf("/api-%d|/v[12]/", i), Methods: []string{"GET"}, Headers: []smi.HeaderMatch{{Name: "user-agent", ValueRegex: ".*Firefox.*"}}}},
				Backends: []topology.Backend{own(i, 90), own((i+1)%services, 10)},
			})
		}
		p.Routes = append(p.Routes, topology.Route{Backends: []topology.Backend{own(i, 1)}})
		for j := range 4 {
			p.Endpoints = append(p.Endpoints, topology.Endpoint{Address: netip.AddrFrom4([4]byte{10, byte(j), byte(i >> 8), byte(i)}), Port: 8080})
		}
		t.Services = append(t.Services, topology.Service{Name: name(i), Ports: []topology.Port{p}})
	}
	return t
}

func encode(t testing.TB, topo topology.Topology, assigned shadow.Assigned) []byte {
	t.Helper()
	config, problems := traefik.Render(traefik.Config{Zones: []string{"mesh", "traefik.mesh"}}, topo, assigned)
	if len(problems) > 0 {
		t.Fatal(problems[0])
	}
	out, err := traefik.Encode(config)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestLargeMesh: 5,000 services are rendered in less than 100 ms of CPU, and to the same bytes while nothing changes. The
// best of several runs counts, as the machine may do other things besides.
func TestLargeMesh(t *testing.T) {
	topo := mesh(5000)
	assigned, _ := shadow.Offline(topo, shadow.Range{First: 20000, Last: 20099})
	first := encode(t, topo, assigned)
	best := time.Hour
	for range 20 {
		began := cpu(t)
		again := encode(t, topo, assigned)
		best = min(best, cpu(t)-began)
		if !bytes.Equal(first, again) {
			t.Fatal("an unchanged topology is rendered to other bytes")
		}
		if best < limit {
			break
		}
	}
	t.Logf("5,000 services: %d bytes in %v", len(first), best)
	if best >= limit {
		t.Errorf("rendering took %v at best", best)
	}
	topo.Services[7].Ports[0].Endpoints = topo.Services[7].Ports[0].Endpoints[:3]
	if bytes.Equal(first, encode(t, topo, assigned)) {
		t.Error("an endpoint less makes no difference")
	}
}

const limit = 100 * time.Millisecond

// BenchmarkRender is 5,000 services, from the topology to bytes.
func BenchmarkRender(b *testing.B) {
	topo := mesh(5000)
	assigned, _ := shadow.Offline(topo, shadow.Range{First: 20000, Last: 20099})
	for b.Loop() {
		encode(b, topo, assigned)
	}
}
