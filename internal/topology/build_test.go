package topology_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/smi"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// What Build makes of objects is shown by the fixtures of package proxyconfig; here are its other promises.

func TestBuildLeavesItsInputAlone(t *testing.T) {
	r := cluster(20, 40, 3)
	r.SMI.TrafficSplits = append(r.SMI.TrafficSplits, conflicting(5)...)
	before, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	first, firstProblems := topology.Build(topology.Config{}, r)
	after, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(before), string(after)); diff != "" {
		t.Errorf("Build changed its input (-before +after):\n%s", diff)
	}
	again, againProblems := topology.Build(topology.Config{}, r)
	if diff := cmp.Diff(first, again, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("building twice gives two results:\n%s", diff)
	}
	if diff := cmp.Diff(firstProblems, againProblems); diff != "" {
		t.Errorf("building twice gives other problems:\n%s", diff)
	}
}

func TestBuildOfNothing(t *testing.T) {
	got, problems := topology.Build(topology.Config{}, topology.Resources{})
	if len(got.Services) != 0 || len(got.Callers) != 0 || len(problems) != 0 {
		t.Errorf("got %v and %v", got, problems)
	}
}

func TestThousandConflictingSplits(t *testing.T) {
	r := cluster(2, 2, 1)
	r.SMI.TrafficSplits = conflicting(1000)
	got, problems := topology.Build(topology.Config{}, r)
	want := topology.Route{
		Split:    &topology.Name{Namespace: "ns-0", Name: "split-00999"}, // the oldest
		Backends: []topology.Backend{{Service: topology.Name{Namespace: "ns-0", Name: "svc-1"}, Port: 80, Weight: 999, Scheme: topology.SchemeHTTP}},
	}
	if diff := cmp.Diff([]topology.Route{want}, got.Services[0].Ports[0].Routes); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
	if len(problems) != 999 {
		t.Fatalf("got %d problems, want one for each that lost", len(problems))
	}
	for _, p := range problems {
		if p.Reason != problem.ConflictingSplit || !strings.Contains(p.Message, `"split-00999"`) {
			t.Fatalf("got %+v", p)
		}
	}
}

// TestUndecodable: problems of what could not be decoded are passed on, but for namespaces that are not meshed.
func TestUndecodable(t *testing.T) {
	of := func(namespace string) problem.Problem {
		return problem.Newf(problem.Ref{Kind: "TrafficSplit", Namespace: namespace, Name: "x"}, problem.InvalidObject, "wrong")
	}
	_, got := topology.Build(
		topology.Config{WatchNamespaces: []string{"shop"}},
		topology.Resources{Undecodable: []problem.Problem{of("shop"), of("other"), of("")}},
	)
	if diff := cmp.Diff([]problem.Problem{of(""), of("shop")}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestTooManyMatches: proxies try matches one by one, so a root may have a thousand; a split that goes beyond is set
// aside as a whole, a smaller one after it is not.
func TestTooManyMatches(t *testing.T) {
	r := cluster(2, 2, 1)
	for i, n := range []int{600, 600, 400, 1} {
		name := fmt.Sprintf("split-%d", i)
		s := conflicting(1)[0]
		s.Ref.Name, s.Matches, s.Created = name, []string{name}, s.Created.Add(time.Duration(i))
		r.SMI.TrafficSplits = append(r.SMI.TrafficSplits, s)
		g := smi.HTTPRouteGroup{Meta: smi.Meta{Ref: problem.Ref{Kind: "HTTPRouteGroup", Namespace: "ns-0", Name: name}}}
		for j := range n {
			g.Matches = append(g.Matches, smi.HTTPMatch{PathRegex: fmt.Sprintf("/%d/%d", i, j)})
		}
		r.SMI.HTTPRouteGroups = append(r.SMI.HTTPRouteGroups, g)
	}
	got, problems := topology.Build(topology.Config{}, r)
	var splits []string
	for _, route := range got.Services[0].Ports[0].Routes[:2] {
		splits = append(splits, route.Split.Name)
	}
	if diff := cmp.Diff([]string{"split-0", "split-2"}, splits); diff != "" {
		t.Errorf("splits that act (-want +got):\n%s", diff)
	}
	var told []string
	for _, p := range problems {
		if p.Reason == problem.TooManyMatches {
			told = append(told, p.Object.Name)
		}
	}
	if diff := cmp.Diff([]string{"split-1", "split-3"}, told); diff != "" {
		t.Errorf("splits with problems (-want +got):\n%s", diff)
	}
}

// TestMessagesNameAFewOfMany: an object can name thousands of others.
func TestMessagesNameAFewOfMany(t *testing.T) {
	r := cluster(1, 1, 1)
	s := conflicting(1)[0]
	s.Backends = nil
	for i := range 5000 {
		s.Backends = append(s.Backends, smi.SplitBackend{Service: fmt.Sprintf("none-%d", i)})
	}
	r.SMI.TrafficSplits = []smi.TrafficSplit{s}
	_, problems := topology.Build(topology.Config{}, r)
	if len(problems) != 1 || !strings.Contains(problems[0].Message, `"none-0", "none-1", "none-2", "none-3", "none-4" and 4995 more`) {
		t.Errorf("got %v", problems)
	}
}

// TestOneProblemForManyEndpoints: an Event for each of thousands of endpoints would help nobody.
func TestOneProblemForManyEndpoints(t *testing.T) {
	r := cluster(1, 1, 1)
	slice := r.EndpointSlices[0]
	for i := range 5000 {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}).String()}})
	}
	got, problems := topology.Build(topology.Config{}, r)
	if len(problems) != 1 || !strings.Contains(problems[0].Message, `"127.1.0.0" is one`) {
		t.Errorf("got the problems %v", problems)
	}
	if n := len(got.Services[0].Ports[0].Endpoints); n != 1 {
		t.Errorf("got %d endpoints, want the good one alone", n)
	}
}

func TestHugeAnnotation(t *testing.T) {
	r := cluster(2, 2, 1)
	r.Services[0].Annotations = map[string]string{"tulle.dev/timeout": strings.Repeat("9", 1<<20), "tulle.dev/" + strings.Repeat("x", 1<<20): ""}
	got, problems := topology.Build(topology.Config{}, r)
	if len(problems) != 2 || len(got.Services) != 2 {
		t.Fatalf("got %d services and the problems %.200v", len(got.Services), problems)
	}
	for _, p := range problems {
		if len(p.Message) > 1024 {
			t.Errorf("a message has %d bytes", len(p.Message))
		}
	}
}

// TestEmptyObjects: sources may hand in objects with nothing in them.
func TestEmptyObjects(t *testing.T) {
	named := metav1.ObjectMeta{Namespace: "shop", Name: "web", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}}
	r := topology.Resources{
		Services:       []*corev1.Service{{}, {ObjectMeta: named, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{}, {Port: 80}}}}},
		EndpointSlices: []*discoveryv1.EndpointSlice{{}, {ObjectMeta: named, Ports: make([]discoveryv1.EndpointPort, 2), Endpoints: make([]discoveryv1.Endpoint, 2)}},
		Pods:           []*corev1.Pod{{}, {ObjectMeta: named, Spec: corev1.PodSpec{NodeName: "n"}}},
		Nodes:          []*corev1.Node{{}},
	}
	got, problems := topology.Build(topology.Config{MeshNamespace: "tulle-system"}, r)
	if len(got.Services) != 1 || len(got.Services[0].Ports) != 1 || len(got.Callers) != 0 {
		t.Errorf("got %+v", got)
	}
	if text := fmt.Sprint(problems); len(problems) != 2 || strings.Count(text, string(problem.InvalidService)) != 2 {
		t.Errorf("got %s, want the nameless Service and the port 0", text)
	}
}
