package topology_test

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/smi"
	"github.com/tulle-mesh/tulle/internal/topology"
)

func smiMeta(kind, namespace, name string) smi.Meta {
	return smi.Meta{Ref: problem.Ref{Kind: kind, Namespace: namespace, Name: name}}
}

// TestJudge: an object that does not exist yet is judged as Build would judge it, and nothing else is said.
func TestJudge(t *testing.T) {
	service := func(ns, name string, port int32) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: port}}}}
	}
	split := func(name, root, backend string) smi.TrafficSplit {
		return smi.TrafficSplit{Meta: smiMeta("TrafficSplit", "shop", name), Service: root, Backends: []smi.SplitBackend{{Service: backend, Weight: 1}}}
	}
	old := split("old", "web", "v1")
	old.Created = time.Unix(1000, 0)
	r := topology.Resources{
		Services: []*corev1.Service{service("other", "away", 80), service("shop", "odd", 81), service("shop", "v1", 80), service("shop", "web", 80), service("shop", "web2", 80)},
		SMI:      smi.Objects{TrafficSplits: []smi.TrafficSplit{{Meta: smiMeta("TrafficSplit", "other", "broken"), Service: "nowhere"}, old}},
	}
	target := func(to smi.Identity) smi.TrafficTarget {
		return smi.TrafficTarget{Meta: smiMeta("TrafficTarget", "shop", "t"), Destination: to, Rules: []smi.Rule{{Kind: "TCPRoute", Name: "r"}}, Sources: []smi.Identity{{Namespace: "shop", Name: "a"}}}
	}
	for what, c := range map[string]struct {
		object any
		want   []problem.Reason
	}{
		"fine":                     {split("new", "web2", "v1"), nil},
		"itself again":             {split("old", "web", "v1"), nil},
		"itself, and worse":        {split("old", "web", "nowhere"), []problem.Reason{problem.BackendNotFound}},
		"no root":                  {split("new", "nowhere", "v1"), []problem.Reason{problem.RootNotFound}},
		"a backend of another":     {split("new", "web2", "away"), []problem.Reason{problem.BackendNotFound}},
		"a port that is missing":   {split("new", "web2", "odd"), []problem.Reason{problem.PortMismatch}},
		"younger than another":     {split("a", "web", "v1"), []problem.Reason{problem.ConflictingSplit}},
		"a target for nobody":      {target(smi.Identity{Namespace: "shop", Name: "none"}), []problem.Reason{problem.DestinationNotFound, problem.NotEnforced, problem.RouteNotFound}},
		"a target elsewhere":       {target(smi.Identity{Namespace: "other", Name: "none"}), []problem.Reason{problem.DestinationElsewhere}},
		"a group":                  {smi.HTTPRouteGroup{Meta: smiMeta("HTTPRouteGroup", "shop", "g")}, nil},
		"a route":                  {smi.TCPRoute{Meta: smiMeta("TCPRoute", "shop", "g")}, nil},
		"another route":            {smi.UDPRoute{Meta: smiMeta("UDPRoute", "shop", "g")}, nil},
		"nothing":                  {nil, nil},
		"what the mesh leaves out": {smi.TrafficSplit{Meta: smiMeta("TrafficSplit", "kube-system", "s"), Service: "nowhere"}, nil},
	} {
		var got []problem.Reason
		for _, p := range topology.Judge(topology.Config{IgnoreNamespaces: []string{"kube-system"}}, r, c.object) {
			got = append(got, p.Reason)
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %v, want %v", what, got, c.want)
		}
	}
}
