package standalone

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/topology"
)

func (r *running) answers(t *testing.T, service string, want string) {
	t.Helper()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	got, status, err := get(t.Context(), client, r.address(t, service, 80, topology.HTTP))
	if err != nil || status != http.StatusOK || got != want {
		t.Fatalf("%s answers %q with status %d, %v; want %q", service, got, status, err, want)
	}
}

// A port that an ordinary user may not bind is served on a high one.
func TestLowPort(t *testing.T) {
	r := start(t, map[string]string{"web.yaml": service("web", "http", 80, httpBackend(t, "127.0.0.1", "v1"))})
	r.answers(t, "web.shop", "v1")
	if port := netip.MustParseAddrPort(r.address(t, "web.shop", 80, topology.HTTP)).Port(); port < 1024 {
		t.Errorf("port 80 is served on %d, which takes root", port)
	}
}

// Meshes do not get into each other's way, even if they serve the same names.
func TestSideBySide(t *testing.T) {
	var meshes []*running
	for _, version := range []string{"first", "second", "third"} {
		r := start(t, map[string]string{
			"web.yaml": service("web", "http", 80, httpBackend(t, "127.0.0.1", version)),
			"udp.yaml": strings.ReplaceAll(service("udp", "udp-echo", 8125, 1), "port: 8125", "port: 8125, protocol: UDP"),
		})
		r.awaitNoProblems(t)
		meshes = append(meshes, r)
	}
	seen := map[string]bool{}
	for i, version := range []string{"first", "second", "third"} {
		meshes[i].answers(t, "web.shop", version)
		for _, address := range []string{meshes[i].address(t, "web.shop", 80, topology.HTTP), meshes[i].address(t, "udp.shop", 8125, topology.UDP)} {
			if seen[address] {
				t.Errorf("two meshes serve on %s", address)
			}
			seen[address] = true
		}
	}
}

func TestDNS(t *testing.T) {
	r := start(t, map[string]string{"web.yaml": service("web", "http", 80, httpBackend(t, "127.0.0.1", "v1"))})
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, r.State().DNS)
	}}
	want := netip.MustParseAddrPort(r.address(t, "web.shop", 80, topology.HTTP)).Addr().String()
	if got, err := resolver.LookupHost(t.Context(), "web.shop.mesh."); err != nil || len(got) != 1 || got[0] != want {
		t.Errorf("web.shop.mesh is %v, %v; want %s", got, err, want)
	}
	var notFound *net.DNSError
	if got, err := resolver.LookupHost(t.Context(), "nobody.shop.mesh."); !errors.As(err, &notFound) || !notFound.IsNotFound {
		t.Errorf("nobody.shop.mesh is %v, %v", got, err)
	}
}

func TestDNSAddress(t *testing.T) {
	dir := t.TempDir()
	for range 2 { // the second one finds the usual port taken
		m, err := New(t.Context(), Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer m.udp.Close()
		defer m.tcp.Close()
		if a := netip.MustParseAddrPort(m.State().DNS); !a.Addr().IsLoopback() || m.udp.LocalAddr().String() != a.String() {
			t.Errorf("DNS on %v and %v", a, m.udp.LocalAddr())
		}
		taken := netip.MustParseAddrPort(m.State().DNS)
		if _, err := New(t.Context(), Config{Dir: dir, DNSAddress: taken}); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("a port that was asked for and is taken: %v", err)
		}
	}
}

// Nothing listens where other machines could reach it.
func TestNotLoopback(t *testing.T) {
	dir := t.TempDir()
	sockets := loopback{proxy.Kernel{}}
	for _, a := range []string{"0.0.0.0:0", "[::]:0", "10.0.0.1:0", "[2001:db8::1]:0", "[fe80::1]:0", "[::ffff:10.0.0.1]:0", "[::ffff:0.0.0.0]:0", "128.0.0.1:0", "126.255.255.255:0"} {
		if _, err := New(t.Context(), Config{Dir: dir, DNSAddress: netip.MustParseAddrPort(a)}); !errors.Is(err, ErrNotLoopback) {
			t.Errorf("DNS on %s: %v", a, err)
		}
		if _, err := sockets.Listen(t.Context(), a); !errors.Is(err, ErrNotLoopback) {
			t.Errorf("listen on %s: %v", a, err)
		}
		if _, err := sockets.ListenPacket(t.Context(), a); !errors.Is(err, ErrNotLoopback) {
			t.Errorf("listen on %s for datagrams: %v", a, err)
		}
	}
	if _, err := sockets.Listen(t.Context(), ":0"); !errors.Is(err, ErrNotLoopback) {
		t.Errorf("listen on all addresses: %v", err)
	}
	for _, a := range []string{"127.0.0.1:0", "[::1]:0"} {
		if l, err := sockets.Listen(t.Context(), a); errors.Is(err, ErrNotLoopback) {
			t.Errorf("listen on %s: %v", a, err)
		} else if err == nil {
			l.Close()
		}
	}
}

// Whoever calls from a pod's address is that pod; whoever calls from 127.0.0.1 may be anybody.
func TestCallers(t *testing.T) {
	if DetectLoopback().OneAddress {
		t.Skip("only 127.0.0.1 exists here")
	}
	registry := prometheus.NewRegistry()
	r := &running{dir: t.TempDir()}
	r.write(t, "web.yaml", service("web", "http", 80, httpBackend(t, "127.0.0.1", "v1")))
	r.write(t, "pods.yaml", `apiVersion: v1
kind: Pod
metadata: {name: checkout, namespace: shop}
status: {podIP: 127.0.0.7}
---
apiVersion: v1
kind: Pod
metadata: {name: anybody, namespace: shop}
status: {podIP: 127.0.0.1}
`)
	r.run(t, Config{Dir: r.dir, DNSAddress: netip.MustParseAddrPort("127.0.0.1:0"), Loopback: ordinary(), Proxy: proxy.Config{Registerer: registry}})
	web := r.address(t, "web.shop", 80, topology.HTTP)
	for _, from := range []string{"127.0.0.7", "127.0.0.1", "127.0.0.8"} {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		client := &http.Client{Timeout: patience, Transport: &http.Transport{DialContext: d.DialContext, DisableKeepAlives: true}}
		if _, status, err := get(t.Context(), client, web); err != nil || status != http.StatusOK {
			t.Fatalf("call from %s: status %d, %v", from, status, err)
		}
	}
	deadline := time.Now().Add(patience) // a request is counted after its answer was sent
	for callers := calls(t, registry); callers["pod/checkout"] != 1 || callers["unknown"] != 2; callers = calls(t, registry) {
		if time.Now().After(deadline) {
			t.Fatalf("calls by workload: %v, want one of pod/checkout and two of unknown", callers)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// calls counts requests by the workload that made them.
func calls(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	callers := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if f.GetName() == "tulle_proxy_requests_total" && l.GetName() == "source_workload" {
					callers[l.GetValue()] += m.GetCounter().GetValue()
				}
			}
		}
	}
	return callers
}

// panics are sockets with a bug.
type panics struct {
	proxy.Sockets
	on atomic.Bool
}

func (p *panics) Listen(ctx context.Context, address string) (net.Listener, error) {
	if p.on.Load() {
		panic("a bug")
	}
	return p.Sockets.Listen(ctx, address)
}

// A bug that an object brings to light costs that change, not the mesh.
func TestInternalError(t *testing.T) {
	sockets := &panics{Sockets: proxy.Kernel{}}
	r := &running{dir: t.TempDir()}
	r.write(t, "web.yaml", service("web", "http", 80, httpBackend(t, "127.0.0.1", "v1")))
	r.run(t, Config{Dir: r.dir, DNSAddress: netip.MustParseAddrPort("127.0.0.1:0"), Loopback: ordinary(), Proxy: proxy.Config{Sockets: sockets}})
	r.answers(t, "web.shop", "v1")
	sockets.on.Store(true)
	r.write(t, "other.yaml", service("other", "http", 80, 1))
	r.await(t, func(s State) error {
		if len(s.Problems) != 1 || s.Problems[0].Reason != problem.InternalError {
			return fmt.Errorf("problems %v, want InternalError", s.Problems)
		}
		return nil
	})
	r.answers(t, "web.shop", "v1")
	sockets.on.Store(false)
	r.write(t, "third.yaml", service("third", "http", 80, httpBackend(t, "127.0.0.1", "v3")))
	r.awaitNoProblems(t)
	r.answers(t, "third.shop", "v3")
	r.answers(t, "web.shop", "v1")
}
