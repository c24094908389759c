package controller

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/proxyconfig"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// large is a cluster of the size that the mesh is built for.
func large(services, podsEach, nodes int) Snapshot {
	var s Snapshot
	serial := 0
	for i := range services {
		namespace, name := fmt.Sprintf("ns-%03d", i%200), fmt.Sprintf("service-%04d", i)
		s.Resources.Services = append(s.Resources.Services, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
			Spec:       corev1.ServiceSpec{ClusterIP: fmt.Sprintf("10.96.%d.%d", i/250, i%250), Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}}},
		})
		port, protocol, portName := int32(8080), corev1.ProtocolTCP, "http"
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: namespace, Name: name + "-x", Labels: map[string]string{discoveryv1.LabelServiceName: name, discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io"}},
			AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &portName, Port: &port, Protocol: &protocol}},
		}
		for p := range podsEach {
			ip, node, pod := fmt.Sprintf("10.%d.%d.%d", 128+serial/62500, serial/250%250, serial%250+1), fmt.Sprintf("n-%03d", serial%nodes), fmt.Sprintf("%s-%d", name, p)
			serial++
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}, NodeName: &node, TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: namespace, Name: pod}})
			s.Resources.Pods = append(s.Resources.Pods, &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: pod},
				Spec:       corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip},
			})
		}
		s.Resources.EndpointSlices = append(s.Resources.EndpointSlices, slice)
	}
	slices.SortFunc(s.Resources.Services, func(a, b *corev1.Service) int { return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name) })
	for i := range nodes {
		node := fmt.Sprintf("n-%03d", i)
		s.Resources.Nodes = append(s.Resources.Nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}})
		s.Proxies = append(s.Proxies, shadow.Proxy{Pod: "p-" + node, Node: node, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 250, byte(i / 250), byte(i%250 + 1)})}, Ready: true})
	}
	return s
}

// BenchmarkRound measures what a change costs: of an object that a topology is made of, and of a mesh address's slice.
func BenchmarkRound(b *testing.B) {
	for _, size := range []struct{ services, pods, nodes int }{{1000, 4, 100}, {5000, 4, 500}} {
		s := large(size.services, size.pods, size.nodes)
		w := &world{}
		c := New(Config{
			Topology: topology.Config{MeshNamespace: "tulle-system"}, Shadow: shadow.Config{Namespace: "tulle-system", SharedHTTP: size.services > 1000},
			ProxyConfig: proxyconfig.Config{Zones: []string{"mesh"}}, Source: w, Publisher: w, Proxies: connections{w}, Log: slog.New(slog.DiscardHandler),
		})
		first, err := c.build(s)
		if err != nil {
			b.Fatal(err)
		}
		changes, _ := shadow.Plan(c.Shadow, first.topology, s.Shadow, s.Proxies, nil)
		for i, svc := range changes.CreateServices {
			svc.Spec.ClusterIPs = []string{fmt.Sprintf("10.100.%d.%d", i/250, i%250)}
		}
		s.Shadow = shadow.State{Services: changes.CreateServices, Slices: changes.CreateSlices}
		name := fmt.Sprintf("%d services, %d pods, %d nodes", size.services, size.services*size.pods, size.nodes)
		for what, version := range map[string]uint64{"of an object": 0, "of a slice": 7} {
			b.Run(name+"/"+what, func(b *testing.B) {
				s.Version = version
				for b.Loop() {
					r, err := c.build(s)
					if err != nil {
						b.Fatal(err)
					}
					c.latest.Store(r)
				}
				b.ReportAllocs()
			})
		}
	}
}
