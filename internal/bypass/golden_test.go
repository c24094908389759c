package bypass_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	diff "github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/bypass"
	"github.com/tulle-mesh/tulle/internal/topology"
)

var update = flag.Bool("update", false, "rewrite the expected parts of testdata")

// TestGolden builds every fixture, and again from its objects in other orders.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			f := readFixture(t, archive)
			states, policies := f.run(t)
			if *update {
				archive.Files = append(archive.Files[:2], txtar.File{Name: "states", Data: []byte(states)}, txtar.File{Name: "policies.yaml", Data: []byte(policies)})
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := diff.Diff(section(archive, "states"), states); d != "" {
				t.Errorf("states (-want +got):\n%s", d)
			}
			if d := diff.Diff(section(archive, "policies.yaml"), policies); d != "" {
				t.Errorf("policies (-want +got):\n%s", d)
			}
			for seed := range uint64(5) {
				f.shuffle(rand.New(rand.NewPCG(seed, 1)))
				if s, p := f.run(t); s+p != states+policies {
					t.Fatalf("another order of the objects changes the result:\n%s", diff.Diff(states+policies, s+p))
				}
			}
		})
	}
}

// fixture is one run: config.yaml and in.yaml. What is exposed is "namespace/pod port", with /udp; an enforced engine and a
// blocked probe are assumed unless config.yaml says otherwise.
type fixture struct {
	settings struct {
		Default      string
		AllowFrom    []string
		AntiSpoofing bool
		Exposed      []string
		Engine       string // why NetworkPolicies do not hold
		Untried      bool
		Reached      []netip.AddrPort
		Prober       []netip.Addr
	}
	input bypass.Input
}

func section(a *txtar.Archive, name string) string {
	for _, f := range a.Files {
		if f.Name == name {
			return string(f.Data)
		}
	}
	return ""
}

func readFixture(t *testing.T, a *txtar.Archive) *fixture {
	t.Helper()
	if !strings.HasPrefix(string(a.Comment), "# ") {
		t.Fatal("the head comment does not say what the fixture shows")
	}
	f := &fixture{}
	if err := yaml.UnmarshalStrict([]byte(section(a, "config.yaml")), &f.settings); err != nil {
		t.Fatalf("config.yaml: %v", err)
	}
	for doc := range strings.SplitSeq(section(a, "in.yaml"), "---\n") {
		raw, err := yaml.YAMLToJSON([]byte(doc))
		if err != nil {
			t.Fatalf("in.yaml: %v\n%s", err, doc)
		}
		var head struct{ Kind string }
		if err := json.Unmarshal(raw, &head); err != nil {
			t.Fatal(err)
		}
		switch head.Kind {
		case "Pod":
			f.input.Pods = append(f.input.Pods, decoded[corev1.Pod](t, raw))
		case "Namespace":
			f.input.Namespaces = append(f.input.Namespaces, decoded[corev1.Namespace](t, raw))
		case "ServiceAccount":
			f.input.ServiceAccounts = append(f.input.ServiceAccounts, decoded[corev1.ServiceAccount](t, raw))
		case "NetworkPolicy":
			f.input.Policies = append(f.input.Policies, decoded[networkingv1.NetworkPolicy](t, raw))
		default:
			f.input.Owners = append(f.input.Owners, decoded[bypass.Owner](t, raw))
		}
	}
	f.input.Enforced = func(topology.Name) bool { return true }
	for _, text := range f.settings.Exposed {
		f.input.Exposed = append(f.input.Exposed, f.exposed(t, text))
	}
	slices.SortFunc(f.input.Exposed, topology.Exposed.Compare)
	return f
}

func decoded[T any](t *testing.T, raw []byte) *T {
	t.Helper()
	o := new(T)
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(o); err != nil {
		t.Fatalf("%v\n%s", err, raw)
	}
	return o
}

func (f *fixture) exposed(t *testing.T, text string) topology.Exposed {
	t.Helper()
	pod, port, _ := strings.Cut(text, " ")
	namespace, name, _ := strings.Cut(pod, "/")
	number, protocol, _ := strings.Cut(port, "/")
	e := topology.Exposed{Workload: topology.Name{Namespace: namespace}, UDP: protocol == "udp"}
	if _, err := fmt.Sscan(number, &e.Port); err != nil {
		t.Fatalf("exposed %q: %v", text, err)
	}
	for _, p := range f.input.Pods {
		if p.Namespace == namespace && p.Name == name {
			e.Pod, e.Workload.Name = topology.Name{Namespace: namespace, Name: name}, cmp.Or(p.Spec.ServiceAccountName, "default")
		}
	}
	return e
}

func (f *fixture) shuffle(r *rand.Rand) {
	in := &f.input
	r.Shuffle(len(in.Pods), func(i, j int) { in.Pods[i], in.Pods[j] = in.Pods[j], in.Pods[i] })
	r.Shuffle(len(in.Owners), func(i, j int) { in.Owners[i], in.Owners[j] = in.Owners[j], in.Owners[i] })
	r.Shuffle(len(in.Policies), func(i, j int) { in.Policies[i], in.Policies[j] = in.Policies[j], in.Policies[i] })
	r.Shuffle(len(in.Namespaces), func(i, j int) { in.Namespaces[i], in.Namespaces[j] = in.Namespaces[j], in.Namespaces[i] })
}

// run returns a line for each workload and problem, and what would be changed.
func (f *fixture) run(t *testing.T) (states, policies string) {
	t.Helper()
	c := bypass.Config{Namespace: "tulle-system", Default: bypass.Mode(f.settings.Default), AntiSpoofing: f.settings.AntiSpoofing, Prober: f.settings.Prober}
	for _, text := range f.settings.AllowFrom {
		p, err := bypass.ParsePeer(text)
		if err != nil {
			t.Fatal(err)
		}
		c.AllowFrom = append(c.AllowFrom, p)
	}
	r := bypass.Build(c, f.input)
	var b strings.Builder
	for _, w := range r.Workloads {
		state, why := w.Judge(f.evidence(&w))
		fmt.Fprintf(&b, "%s (%s, %v): %s\n", w.Name, w.Mode, w.Ports, bypass.Text(state, why, w.Except))
		for _, target := range w.Targets {
			fmt.Fprintf(&b, "  to be tried: %s of %s on %s\n", target.Address, target.Pod, target.Node)
		}
	}
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "%s\n", p)
	}
	return b.String(), f.changes(t, r)
}

func (f *fixture) evidence(w *bypass.Workload) bypass.Evidence {
	e := bypass.Evidence{Engines: map[string]string{}, Tried: map[netip.AddrPort]bool{}, Reached: map[netip.AddrPort]bool{}}
	if f.settings.Untried {
		return e
	}
	for _, n := range w.Nodes {
		e.Engines[n] = f.settings.Engine
	}
	for _, target := range w.Targets {
		e.Tried[target.Address] = true
	}
	for _, a := range f.settings.Reached {
		e.Reached[a] = true
	}
	return e
}

func (f *fixture) changes(t *testing.T, r bypass.Result) string {
	t.Helper()
	var b strings.Builder
	have := slices.Clone(f.input.Policies)
	slices.SortFunc(have, func(a, b *networkingv1.NetworkPolicy) int { return cmp.Compare(a.Name, b.Name) })
	changes := bypass.Plan("tulle-system", r.Wanted, have)
	for verb, list := range map[string][]*networkingv1.NetworkPolicy{"create": changes.Create, "update": changes.Update} {
		for _, p := range list {
			text, err := yaml.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "--- # %s\n%s", verb, text)
		}
	}
	for _, p := range changes.Delete {
		fmt.Fprintf(&b, "--- # delete %s/%s\n", p.Namespace, p.Name)
	}
	// What was written is what is wanted.
	if again := bypass.Plan("tulle-system", r.Wanted, r.Wanted); !again.Empty() {
		t.Errorf("written once, it would be written again: %+v", again)
	}
	return b.String()
}
