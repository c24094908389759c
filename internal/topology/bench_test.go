package topology_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/smi"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// BenchmarkBuild is a cluster of the size that the mesh is built for: 5,000 services, 20,000 pods, 500 nodes, and a
// split for every tenth service. It should stay under 150 ms.
func BenchmarkBuild(b *testing.B) {
	r := cluster(5000, 20_000, 500)
	if _, problems := topology.Build(topology.Config{}, r); len(problems) > 0 {
		b.Fatal(problems[0])
	}
	for b.Loop() {
		topology.Build(topology.Config{}, r)
	}
}

// BenchmarkBuildEnforced is the same with access control for all of it.
func BenchmarkBuildEnforced(b *testing.B) {
	r := cluster(5000, 20_000, 500)
	for b.Loop() {
		topology.Build(topology.Config{AccessDefault: topology.AccessEnforce}, r)
	}
}

// BenchmarkConflictingSplits grows tenfold from one to the next if nothing is quadratic.
func BenchmarkConflictingSplits(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		r := cluster(2, 2, 1)
		r.SMI.TrafficSplits = conflicting(n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				topology.Build(topology.Config{}, r)
			}
		})
	}
}

// conflicting are n splits of one root, each with a group of its own name.
func conflicting(n int) []smi.TrafficSplit {
	var out []smi.TrafficSplit
	for i := range n {
		out = append(out, smi.TrafficSplit{
			Meta:     smi.Meta{Ref: problem.Ref{Kind: "TrafficSplit", Namespace: "ns-0", Name: fmt.Sprintf("split-%05d", i)}, Created: time.Unix(int64(n-i), 0)},
			Service:  "svc-0",
			Backends: []smi.SplitBackend{{Service: "svc-1", Weight: int64(i)}},
		})
	}
	return out
}

// cluster makes services with an equal share of the pods each, ten services to a namespace.
func cluster(services, pods, nodes int) topology.Resources {
	var r topology.Resources
	address := func(net byte, i int) netip.Addr {
		return netip.AddrFrom4([4]byte{net, byte(i >> 16), byte(i >> 8), byte(i)})
	}
	for i := range nodes {
		r.Nodes = append(r.Nodes, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node-%d", i)},
			Spec:       corev1.NodeSpec{PodCIDRs: []string{netip.PrefixFrom(address(10, i<<8), 24).String()}},
			Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address(172, i).String()}}},
		})
	}
	ready, http, tcp := true, "http", corev1.ProtocolTCP
	port := int32(8080)
	for i := range services {
		ns, name := fmt.Sprintf("ns-%d", i/10), fmt.Sprintf("svc-%d", i)
		ip := address(100, i).String()
		r.Services = append(r.Services, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Annotations: map[string]string{"tulle.dev/retry-attempts": "2", "example.com/owner": "team"}},
			Spec:       corev1.ServiceSpec{ClusterIP: ip, ClusterIPs: []string{ip}, Ports: []corev1.ServicePort{{Name: http, Port: 80}}},
		})
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name + "-x", Labels: map[string]string{discoveryv1.LabelServiceName: name}},
			Ports:      []discoveryv1.EndpointPort{{Name: &http, Port: &port, Protocol: &tcp}},
		}
		for j := i * pods / services; j < (i+1)*pods/services; j++ {
			node := fmt.Sprintf("node-%d", j%nodes)
			addr := address(10, j%nodes<<8+j/nodes+1).String()
			pod := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprintf("%s-5d4f-%d", name, j), Labels: map[string]string{"pod-template-hash": "5d4f"}, OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: name + "-5d4f", Controller: &ready}}},
				Spec:       corev1.PodSpec{NodeName: node, ServiceAccountName: name},
				Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: addr, PodIPs: []corev1.PodIP{{IP: addr}}},
			}
			r.Pods = append(r.Pods, pod)
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{addr}, NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
				TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: ns, Name: pod.Name},
			})
		}
		r.EndpointSlices = append(r.EndpointSlices, slice)
		if i%10 == 1 {
			r.SMI.TrafficSplits = append(r.SMI.TrafficSplits, smi.TrafficSplit{
				Meta:     smi.Meta{Ref: problem.Ref{Kind: "TrafficSplit", Namespace: ns, Name: "canary"}},
				Service:  fmt.Sprintf("svc-%d", i-1),
				Backends: []smi.SplitBackend{{Service: name, Weight: 1}},
			})
		}
	}
	return r
}
