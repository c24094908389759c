package observed_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/access"
	"github.com/tulle-mesh/tulle/internal/observed"
	"github.com/tulle-mesh/tulle/internal/proxyconfig"
	"github.com/tulle-mesh/tulle/internal/smi"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// judge decides by what was proposed, as the proxies would: from YAML through topology and config.
type judge map[string]*access.Workload

// newJudge fails the test if what was proposed has a problem.
func newJudge(t *testing.T, proposed []byte, m observed.Merged) judge {
	t.Helper()
	var objects smi.Objects
	for d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(proposed), 4096); ; {
		var content map[string]any
		if err := d.Decode(&content); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, proposed)
		}
		if content == nil {
			continue
		}
		o, problems := smi.Decode(content)
		if len(problems) > 0 {
			t.Fatalf("%v in\n%s", problems, proposed)
		}
		objects.Add(o)
	}
	r := topology.Resources{SMI: objects}
	served := map[string]bool{}
	for i, e := range m.Edges {
		if namespace, account, _ := strings.Cut(e.From, "/"); e.From != "" {
			r.ServiceAccounts = append(r.ServiceAccounts, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: account}})
		}
		if id := fmt.Sprint(e.To, e.Port, e.Protocol); !served[id] && !strings.HasSuffix(e.To, "/") {
			served[id] = true
			serve(&r, e.Peers, fmt.Sprintf("s%d", i), fmt.Sprintf("10.1.%d.%d", i/250, 1+i%250))
		}
	}
	topo, problems := topology.Build(topology.Config{AccessDefault: topology.AccessEnforce}, r)
	if len(problems) > 0 {
		t.Fatalf("%v in\n%s", problems, proposed)
	}
	j := judge{}
	for i := range topo.Workloads {
		w, err := new(access.Compiler).Compile(proxyconfig.Policy(&topo.Workloads[i]))
		if err != nil {
			t.Fatal(err)
		}
		j[topo.Workloads[i].Name.String()] = w
	}
	return j
}

// serve adds a Service with a pod.
func serve(r *topology.Resources, p observed.Peers, name, ip string) {
	namespace, account, _ := strings.Cut(p.To, "/")
	protocol, port, target := corev1.ProtocolTCP, p.Protocol, int32(8080)
	if p.Protocol == "udp" {
		protocol = corev1.ProtocolUDP
	}
	r.Pods = append(r.Pods, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.PodSpec{NodeName: "n", ServiceAccountName: account},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip},
	})
	r.Services = append(r.Services, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Name: port, Port: int32(p.Port), Protocol: protocol}}},
	})
	r.EndpointSlices = append(r.EndpointSlices, &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{ip}}},
		Ports:      []discoveryv1.EndpointPort{{Name: &port, Port: &target, Protocol: &protocol}},
	})
}

func (j judge) allows(from, to string, port uint32, protocol, method, path string) bool {
	w := j[to]
	if w == nil {
		w, _ = new(access.Compiler).Compile(&configv1.Policy{})
	}
	namespace, account, _ := strings.Cut(from, "/")
	c := access.Caller{Identity: access.Identity{Namespace: namespace, ServiceAccount: account}, Standing: access.Known}
	p := access.Port{Number: port, Protocol: map[string]access.Protocol{"http": access.HTTP, "tcp": access.TCP, "udp": access.UDP}[protocol]}
	if protocol == "http" {
		return access.Decide(c, w, p, &access.Request{Method: method, Path: path}).Allow
	}
	return access.Decide(c, w, p, nil).Allow
}
