package topology_test

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/smi"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// protected is a cluster with one pod that runs as shop/web, behind one Service.
func protected(objects smi.Objects) topology.Resources {
	port, name := int32(8080), "http"
	objects.Sort()
	return topology.Resources{
		Services: []*corev1.Service{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
			Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Name: name, Port: 80, Protocol: corev1.ProtocolTCP}}},
		}},
		Pods: []*corev1.Pod{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1"}, Spec: corev1.PodSpec{NodeName: "n1", ServiceAccountName: "web"},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.1.0.1"},
		}},
		EndpointSlices: []*discoveryv1.EndpointSlice{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
			Ports:      []discoveryv1.EndpointPort{{Name: &name, Port: &port}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.1.0.1"}}},
		}},
		SMI: objects,
	}
}

func groupOf(name string, matches int) smi.HTTPRouteGroup {
	g := smi.HTTPRouteGroup{Meta: meta("HTTPRouteGroup", name)}
	for i := range matches {
		g.Matches = append(g.Matches, smi.HTTPMatch{Name: fmt.Sprint(i), PathRegex: fmt.Sprintf("/%s/%d", name, i)})
	}
	return g
}

func meta(kind, name string) smi.Meta {
	return smi.Meta{Ref: problem.Ref{Kind: kind, Namespace: "shop", Name: name}, Created: time.Unix(int64(len(name)), 0)}
}

func targetOf(name, group, source string) smi.TrafficTarget {
	return smi.TrafficTarget{
		Meta: meta("TrafficTarget", name), Destination: smi.Identity{Namespace: "shop", Name: "web"},
		Sources: []smi.Identity{{Namespace: "shop", Name: source}}, Rules: []smi.Rule{{Kind: "HTTPRouteGroup", Name: group}},
	}
}

// What the proxies try for one source is bounded: the oldest targets count, sources are counted apart, and targets that
// choose the same matches count once.
func TestTooManyMatchesOfTargets(t *testing.T) {
	objects := smi.Objects{HTTPRouteGroups: []smi.HTTPRouteGroup{groupOf("all", 1000), groupOf("one", 1), groupOf("huge", 5000)}}
	objects.TrafficTargets = []smi.TrafficTarget{
		targetOf("a", "all", "client"), targetOf("bb", "all", "client"), targetOf("ccc", "one", "client"),
		targetOf("dddd", "one", "other"), targetOf("eeeee", "huge", "third"),
	}
	topo, problems := topology.Build(topology.Config{AccessDefault: topology.AccessEnforce}, protected(objects))
	var granted, refused []string
	for _, g := range topo.Workloads[0].Grants {
		granted = append(granted, g.Target.Name)
	}
	for _, p := range problems {
		if p.Reason == problem.TooManyMatches {
			refused = append(refused, p.Object.Name)
		}
	}
	if got := fmt.Sprint(granted, refused); got != "[a bb dddd] [ccc eeeee]" {
		t.Errorf("allowed and refused: %s", got)
	}
}

// Ten thousand targets of one destination take no more than a moment.
func TestManyTargets(t *testing.T) {
	objects := smi.Objects{HTTPRouteGroups: []smi.HTTPRouteGroup{groupOf("api", 3)}}
	for i := range 10_000 {
		objects.TrafficTargets = append(objects.TrafficTargets, targetOf(fmt.Sprintf("t%05d", i), "api", fmt.Sprintf("c%d", i)))
	}
	began := time.Now()
	topo, problems := topology.Build(topology.Config{AccessDefault: topology.AccessEnforce}, protected(objects))
	if len(topo.Workloads) != 1 || len(topo.Workloads[0].Grants) != 10_000 || len(problems) != 0 {
		t.Errorf("%d workloads, problems %v", len(topo.Workloads), problems)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}
