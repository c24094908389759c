package why

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/access"
	"github.com/tulle-mesh/tulle/internal/access/accesstest"
	"github.com/tulle-mesh/tulle/internal/proxy/meter"
	"github.com/tulle-mesh/tulle/internal/proxy/policy"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
	"github.com/tulle-mesh/tulle/internal/proxyconfig"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/smi"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// TestProxyWhyAndSMIAgree decides on 100,000 calls three times: as the proxies do, from Kubernetes objects through
// topology and config to the gate that engines ask; as `tulle why` does; and by an evaluator that knows nothing but SMI.
// TULLE_MODELS says how many sets of objects are made, with 100 calls each.
func TestProxyWhyAndSMIAgree(t *testing.T) {
	models := uint64(1000)
	if s := os.Getenv("TULLE_MODELS"); s != "" {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		models = n
	}
	count := map[string]int{}
	for seed := range models {
		m := accesstest.Generate(seed)
		r := resources(t, m)
		mesh, err := New(topology.Config{AccessDefault: topology.AccessEnforce}, r)
		if err != nil {
			t.Fatal(err)
		}
		p := newProxy(t, r)
		for i := range uint64(100) {
			c := m.Call(seed*100 + i)
			want := m.Decide(c)
			count[want]++
			if got := p.decide(t, c, m.EncodedSlash); got != want {
				t.Fatalf("the proxy: model %d: %+v\ngot %q, want %q\n%+v", seed, c, got, want, m)
			}
			if c.Standing != "known" && c.Standing != "unknown" {
				continue // of which `tulle why` can't be asked
			}
			if got := ask(t, mesh, c); got != want {
				t.Fatalf("why: model %d: %+v\ngot %q, want %q\n%+v", seed, c, got, want, m)
			}
		}
	}
	t.Logf("decided: %v", count)
	total := int(models) * 100
	if count[""] < total*3/10 {
		t.Errorf("%d of %d calls were allowed, fewer than 30%%", count[""], total)
	}
	for _, reason := range access.Reasons() {
		if reason != access.NoPolicy && count[string(reason)] < total/1000 { // NoPolicy is for proxies that lack one
			t.Errorf("the reason %s occurred %d times of %d", reason, count[string(reason)], total)
		}
	}
}

// resources are the objects of a model, with a Service and a pod for each workload, and a pod for each caller.
func resources(t *testing.T, m *accesstest.Model) topology.Resources {
	t.Helper()
	var r topology.Resources
	pod := func(namespace, name, account, ip string) {
		r.Pods = append(r.Pods, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.PodSpec{NodeName: "n1", ServiceAccountName: account},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip},
		})
	}
	for i, w := range accesstest.Workloads() {
		ip := fmt.Sprintf("10.1.0.%d", i+1)
		pod("shop", w+"-1", w, ip)
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: w}, Spec: corev1.ServiceSpec{ClusterIP: fmt.Sprintf("10.96.0.%d", i+1)}}
		if m.EncodedSlash {
			svc.Annotations = map[string]string{"tulle.dev/encoded-slash": "allow"}
		}
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: w + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: w}},
			Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{ip}}},
		}
		for number, served := range accesstest.Ports() {
			name, protocol, target := served+fmt.Sprint("-", number), corev1.ProtocolTCP, int32(10_000+number)
			if served == "udp" {
				protocol = corev1.ProtocolUDP
			}
			svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Name: name, Port: int32(number), Protocol: protocol})
			slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &name, Port: &target, Protocol: &protocol})
		}
		r.Services, r.EndpointSlices = append(r.Services, svc), append(r.EndpointSlices, slice)
	}
	for i, caller := range accesstest.Callers() {
		namespace, account, _ := strings.Cut(caller, "/")
		pod(namespace, strings.ReplaceAll(account, ".", "-")+"-pod", account, fmt.Sprintf("10.2.0.%d", i+1))
	}
	r.SMI, r.Undecodable = smi.DecodeAll(m.Objects())
	if len(r.Undecodable) > 0 {
		t.Fatal(r.Undecodable)
	}
	return r
}

func ask(t *testing.T, m *Mesh, c accesstest.Call) string {
	t.Helper()
	q := Question{From: c.Caller, To: c.To + ".shop", Port: uint32(c.Port), Protocol: c.Protocol}
	if c.Standing == "unknown" {
		q.From = "-"
	}
	if c.Protocol == "http" {
		q.Method, q.Path, q.Headers = c.Method, c.Path, []Header{{"Host", c.Host}}
		for _, h := range c.Headers {
			q.Headers = append(q.Headers, Header{h[0], h[1]})
		}
	}
	a, err := m.answer(q, false)
	if err != nil {
		t.Fatal(err)
	}
	if a.Allow != (a.Reason == "") {
		t.Fatalf("%+v", a)
	}
	return a.Reason
}

// proxy is the part of one that decides.
type proxy struct {
	gate     *policy.Gate
	set      *upstream.Set
	services map[string]*route.Service
	callers  map[string]netip.Addr
	stale    netip.Addr
}

func newProxy(t *testing.T, r topology.Resources) *proxy {
	t.Helper()
	topo, _ := topology.Build(topology.Config{AccessDefault: topology.AccessEnforce}, r)
	common, err := proxyconfig.Build(proxyconfig.Config{}, topo, shadow.Assigned{})
	if err != nil {
		t.Fatal(err)
	}
	own, err := proxyconfig.Proxies(topo, proxyconfig.Own{Proxies: []shadow.Proxy{{Pod: "p", Node: "n1"}}, Expires: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{set: upstream.NewSet(upstream.Config{}), services: map[string]*route.Service{}, callers: map[string]netip.Addr{}}
	table := &route.Table{PodRanges: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16")}}
	me, _ := own["p"][0].Message.(*configv1.Proxy)
	table.Callers = route.Callers(me.GetCallers())
	for a, c := range table.Callers {
		p.callers[c.Namespace+"/"+c.ServiceAccount] = a
	}
	p.stale = netip.MustParseAddr("10.2.1.1")
	table.Callers[p.stale] = &route.Caller{Namespace: "shop", ServiceAccount: "a", Expires: time.Now().Add(-time.Second)}
	p.gate = policy.New(policy.Config{
		Current: func() (*route.Table, <-chan struct{}) { return table, nil }, Wait: -1, Meter: meter.New(meter.Config{}),
		Log: slog.New(slog.DiscardHandler),
	})
	for _, r := range common {
		switch x := r.Message.(type) {
		case *configv1.Endpoints:
			if err := p.set.Update(r.Name, x); err != nil {
				t.Fatal(err)
			}
		case *configv1.Service:
			if p.services[r.Name], err = route.Compile(r.Name, x, nil, p.set); err != nil {
				t.Fatal(err)
			}
		case *configv1.Policy:
			w, err := p.gate.Compile(r.Name, x)
			if err != nil {
				t.Fatal(err)
			}
			p.gate.Add(map[string]*access.Workload{r.Name: w})
		}
	}
	return p
}

// decide does what an engine does.
func (p *proxy) decide(t *testing.T, c accesstest.Call, encodedSlash bool) string {
	t.Helper()
	port := p.services["shop/"+c.To].Port(uint32(c.Port), c.Protocol == "udp")
	if port.EncodedSlash != (encodedSlash && c.Protocol == "http") {
		t.Fatalf("encoded slashes: %v", port.EncodedSlash)
	}
	call := policy.Call{Port: port, Endpoint: port.Default().Next().Endpoints.Pick(), Peer: policy.Peer{Address: p.callers[c.Caller]}}
	switch c.Standing {
	case "unknown":
		call.Peer.Address = netip.MustParseAddr("10.2.9.9")
	case "stale":
		call.Peer.Address = p.stale
	case "elsewhere":
		call.Peer.Address = netip.MustParseAddr("10.9.9.9")
	}
	if c.Protocol == "http" {
		headers := map[string][]string{}
		for _, h := range c.Headers {
			headers[h[0]] = append(headers[h[0]], h[1])
		}
		call.Request = &access.Request{
			Method: c.Method, Path: c.Path, Host: c.Host, EncodedSlash: port.EncodedSlash,
			Values: func(name string) []string { return headers[name] },
		}
	}
	v := p.gate.Judge(t.Context(), call)
	if v.Allow != (v.Reason == "") {
		t.Fatalf("%+v", v)
	}
	return string(v.Reason)
}
