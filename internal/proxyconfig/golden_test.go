package proxyconfig_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"google.golang.org/protobuf/encoding/protojson"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/golden"
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/proxyconfig"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/smi"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// TestGolden runs Kubernetes YAML through decoding, topology and config. Every fixture is built again from its objects
// in other orders and must come out the same.
func TestGolden(t *testing.T) {
	golden.Each(t, "testdata/*.txtar", []string{"config.yaml", "in.yaml", "calls"}, func(t *testing.T, in *txtar.Archive) []txtar.File {
		f := readFixture(t, in)
		out := f.run(t)
		for seed := range uint64(5) {
			f.shuffle(rand.New(rand.NewPCG(seed, 1)))
			if diff := cmp.Diff(out, f.run(t)); diff != "" {
				t.Fatalf("another order of the objects changes the result (-first +shuffled):\n%s", diff)
			}
		}
		return out
	})
}

// fixture is the input of one run.
type fixture struct {
	settings settings
	core     []json.RawMessage
	smi      []map[string]any
	calls    string // that are decided on
}

// settings are the fixture's config.yaml.
type settings struct {
	Watch, Ignore                            []string
	DefaultMode                              string
	AllowedEndpoints, PodCIDRs, ServiceCIDRs []netip.Prefix
	ForeignPods                              bool
	Zones                                    []string
	ClusterDomain                            string
	DNSBypass                                bool
	Assign                                   string // "dedicated", "shared", "standalone"; empty: no unit has an address
	Proxies                                  []shadow.Proxy
	InSlices                                 []string
	Expires                                  metav1.Time
	AccessDefault, AccessMinimum             string
	TrustTargetRefs                          bool
	TrustDomain, ReasonDetail                string
	Show                                     []string // the resources that out.yaml shows, e.g. "Service shop/web"; empty: all
}

func readFixture(t *testing.T, a *txtar.Archive) *fixture {
	t.Helper()
	if !strings.HasPrefix(string(a.Comment), "# ") {
		t.Fatal("the head comment does not name a rule")
	}
	f := &fixture{calls: golden.Section(a, "calls")}
	if err := yaml.UnmarshalStrict([]byte(golden.Section(a, "config.yaml")), &f.settings); err != nil {
		t.Fatalf("config.yaml: %v", err)
	}
	for doc := range strings.SplitSeq(golden.Section(a, "in.yaml"), "---\n") {
		var content map[string]any
		if err := yaml.Unmarshal([]byte(doc), &content); err != nil {
			t.Fatalf("in.yaml: %v\n%s", err, doc)
		}
		if apiVersion, _ := content["apiVersion"].(string); apiVersion != "v1" && apiVersion != "discovery.k8s.io/v1" {
			f.smi = append(f.smi, content)
			continue
		}
		raw, err := json.Marshal(content)
		if err != nil {
			t.Fatal(err)
		}
		f.core = append(f.core, raw)
	}
	return f
}

func (f *fixture) shuffle(r *rand.Rand) {
	r.Shuffle(len(f.core), func(i, j int) { f.core[i], f.core[j] = f.core[j], f.core[i] })
	r.Shuffle(len(f.smi), func(i, j int) { f.smi[i], f.smi[j] = f.smi[j], f.smi[i] })
}

// run builds everything and writes it down: what is decided on the calls, one line for each Problem, one YAML document
// for each resource.
func (f *fixture) run(t *testing.T) []txtar.File {
	t.Helper()
	s := f.settings
	config := topology.Config{
		WatchNamespaces: s.Watch, IgnoreNamespaces: s.Ignore, MeshNamespace: "tulle-system",
		DefaultMode: topology.Protocol(s.DefaultMode), ForeignPods: s.ForeignPods,
		AllowedEndpoints: s.AllowedEndpoints, PodCIDRs: s.PodCIDRs, ServiceCIDRs: s.ServiceCIDRs,
		AccessDefault: topology.AccessMode(s.AccessDefault), AccessMinimum: topology.AccessMode(s.AccessMinimum), TrustTargetRefs: s.TrustTargetRefs,
	}
	topo, found := topology.Build(config, f.objects(t))
	common, err := proxyconfig.Build(proxyconfig.Config{Zones: s.Zones, ClusterDomain: s.ClusterDomain, DNSBypass: s.DNSBypass, TrustDomain: s.TrustDomain, ReasonDetail: s.ReasonDetail}, topo, f.assigned(topo))
	if err != nil {
		t.Fatal(err)
	}
	inSlices := map[string]bool{}
	for _, pod := range s.InSlices {
		inSlices[pod] = true
	}
	own, err := proxyconfig.Proxies(topo, proxyconfig.Own{Proxies: s.Proxies, InSlices: inSlices, Expires: s.Expires.Time})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range s.Proxies {
		common = append(common, own[p.Pod]...)
	}
	out := []txtar.File{{Name: "problems", Data: []byte(problemLines(found))}, {Name: "out.yaml", Data: []byte(resourceDocs(t, common, s.Show))}}
	if f.calls == "" {
		return out
	}
	return append([]txtar.File{{Name: "verdicts", Data: []byte(verdicts(t, f.calls, common))}}, out...)
}

func problemLines(found []problem.Problem) string {
	var b strings.Builder
	for _, p := range found {
		fmt.Fprintf(&b, "%s %s/%s %s: %s\n", p.Object.Kind, p.Object.Namespace, p.Object.Name, p.Reason, p.Message)
	}
	return b.String()
}

func resourceDocs(t *testing.T, resources []configv1.Resource, show []string) string {
	t.Helper()
	var b strings.Builder
	shown := map[string]bool{}
	for _, r := range resources {
		kind := r.String()
		title := kind[strings.LastIndexByte(kind, '.')+1:]
		shown[title] = true
		if len(show) > 0 && !slices.Contains(show, title) {
			continue
		}
		raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(r.Message)
		if err != nil {
			t.Fatal(err)
		}
		text, err := yaml.JSONToYAML(raw)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "--- # %s\n%s", title, text)
	}
	for _, title := range show {
		if !shown[title] {
			t.Errorf("config.yaml wants to see %q, which does not exist", title)
		}
	}
	return b.String()
}

func (f *fixture) objects(t *testing.T) topology.Resources {
	t.Helper()
	var r topology.Resources
	for _, raw := range f.core {
		var head struct{ Kind string }
		err := json.Unmarshal(raw, &head)
		switch head.Kind {
		case "Service":
			r.Services, err = appended(r.Services, raw, err)
		case "EndpointSlice":
			r.EndpointSlices, err = appended(r.EndpointSlices, raw, err)
		case "Pod":
			r.Pods, err = appended(r.Pods, raw, err)
		case "Node":
			r.Nodes, err = appended(r.Nodes, raw, err)
		case "Namespace":
			r.Namespaces, err = appended(r.Namespaces, raw, err)
		case "ServiceAccount":
			r.ServiceAccounts, err = appended(r.ServiceAccounts, raw, err)
		default:
			t.Fatalf("unknown kind %q", head.Kind)
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, raw)
		}
	}
	r.SMI, r.Undecodable = smi.DecodeAll(f.smi)
	return r
}

func appended[T corev1.Service | discoveryv1.EndpointSlice | corev1.Pod | corev1.Node | corev1.Namespace | corev1.ServiceAccount](list []*T, raw []byte, err error) ([]*T, error) {
	if err != nil {
		return nil, err
	}
	o := new(T)
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	return append(list, o), d.Decode(o)
}

// assigned gives every unit an address and target ports, in order.
func (f *fixture) assigned(topo topology.Topology) shadow.Assigned {
	a := shadow.Assigned{Units: map[shadow.Unit]shadow.Assignment{}}
	if f.settings.Assign == "" {
		return a
	}
	addr, port := netip.MustParseAddr("10.99.0.0"), int32(20000)
	if f.settings.Assign == "shared" {
		a.Shared = []shadow.SharedPort{{Port: 8080, TargetPort: 18081}, {Port: 80, TargetPort: 18080}}
	}
	for _, s := range topo.Services {
		if addr = addr.Next(); s.Backend {
			continue
		}
		u := shadow.Assignment{Unit: shadow.Unit{Name: s.Name, Pod: s.Pod}, Addresses: []netip.Addr{addr}, TargetPorts: map[shadow.PortKey]int32{}}
		if f.settings.Assign == "standalone" {
			u.Bind = addr
		}
		u.Shared = f.settings.Assign == "shared" && !s.Dedicated
		for _, p := range s.Ports {
			if port++; u.Shared && p.Protocol == topology.HTTP {
				continue
			}
			u.TargetPorts[shadow.PortKey{Number: p.Number, UDP: p.Protocol == topology.UDP}] = port
		}
		a.Units[u.Unit] = u
	}
	return a
}
