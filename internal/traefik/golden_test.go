package traefik_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/files"
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/topology"
	"github.com/tulle-mesh/tulle/internal/traefik"
)

var update = flag.Bool("update", false, "rewrite the expected parts of testdata")

// TestGolden renders the topology of every fixture of package proxyconfig, and those of our own. Every fixture is
// rendered again from its objects in other orders and must come out the same, byte for byte.
func TestGolden(t *testing.T) {
	theirs, err := filepath.Glob("../proxyconfig/testdata/*.txtar")
	if err != nil || len(theirs) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	ours, err := filepath.Glob("testdata/in/*.txtar")
	if err != nil || len(ours) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	known := map[string]bool{}
	for _, file := range slices.Concat(theirs, ours) {
		golden := filepath.Join("testdata", filepath.Base(file))
		known[golden] = true
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { checkGolden(t, file, golden) })
	}
	left, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range left {
		if !known[file] {
			t.Errorf("%s is of no fixture", file)
		}
	}
}

func checkGolden(t *testing.T, file, golden string) {
	f := readFixture(t, file)
	out := f.render(t)
	if *update {
		if err := os.WriteFile(golden, txtar.Format(&out), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := txtar.ParseFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(txtar.Format(want)), string(txtar.Format(&out))); diff != "" {
		t.Errorf("rendered (-want +got):\n%s", diff)
	}
	for seed := range uint64(5) {
		rand.New(rand.NewPCG(seed, 1)).Shuffle(len(f.docs), func(i, j int) { f.docs[i], f.docs[j] = f.docs[j], f.docs[i] })
		if diff := cmp.Diff(string(txtar.Format(&out)), string(txtar.Format(new(f.render(t))))); diff != "" {
			t.Fatalf("another order of the objects changes the result (-first +shuffled):\n%s", diff)
		}
	}
}

// fixture is the input of one rendering.
type fixture struct {
	settings settings
	docs     []string
}

// settings are those of a fixture's config.yaml that matter here.
type settings struct {
	Watch, Ignore                            []string
	DefaultMode                              string
	AllowedEndpoints, PodCIDRs, ServiceCIDRs []netip.Prefix
	ForeignPods                              bool
	Zones                                    []string
	First, Last                              int32 // of the range of entry points
	AccessDefault, AccessMinimum             topology.AccessMode
	TrustTargetRefs                          bool
}

func readFixture(t *testing.T, file string) *fixture {
	t.Helper()
	a, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{}
	for _, part := range a.Files {
		switch part.Name {
		case "config.yaml":
			if err := yaml.Unmarshal(part.Data, &f.settings); err != nil {
				t.Fatal(err)
			}
		case "in.yaml":
			f.docs = strings.Split(string(part.Data), "---\n")
		}
	}
	return f
}

// render builds everything and writes it down.
func (f *fixture) render(t *testing.T) txtar.Archive {
	t.Helper()
	topo, assigned, short := f.topology(t)
	config, problems := traefik.Render(f.config(), topo, assigned)
	raw, err := traefik.Encode(config)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := traefik.Render(f.config(), topo, assigned)
	if twice, err := traefik.Encode(again); err != nil || string(twice) != string(raw) {
		t.Fatalf("rendering twice gives two results: %v", err)
	}
	text, err := yaml.JSONToYAML(raw)
	if err != nil {
		t.Fatal(err)
	}
	static, err := yaml.Marshal(traefik.StaticOf(assigned))
	if err != nil {
		t.Fatal(err)
	}
	return txtar.Archive{Files: []txtar.File{
		{Name: "problems", Data: []byte(problemLines(slices.Concat(short, problems)))},
		{Name: "static.yaml", Data: static},
		{Name: "dynamic.yaml", Data: text},
	}}
}

func (f *fixture) config() traefik.Config {
	c := traefik.Config{Zones: f.settings.Zones}
	if len(c.Zones) == 0 {
		c.Zones = []string{"mesh"}
	}
	return c
}

func (f *fixture) topology(t *testing.T) (topology.Topology, shadow.Assigned, []problem.Problem) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "in.yaml"), []byte(strings.Join(f.docs, "\n---\n")), 0o644); err != nil {
		t.Fatal(err)
	}
	source, err := files.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := f.settings
	topo, _ := topology.Build(topology.Config{
		WatchNamespaces: s.Watch, IgnoreNamespaces: s.Ignore, MeshNamespace: "tulle-system",
		DefaultMode: topology.Protocol(s.DefaultMode), ForeignPods: s.ForeignPods,
		AccessDefault: s.AccessDefault, AccessMinimum: s.AccessMinimum, TrustTargetRefs: s.TrustTargetRefs, AllowedEndpoints: s.AllowedEndpoints, PodCIDRs: s.PodCIDRs, ServiceCIDRs: s.ServiceCIDRs,
	}, source.Snapshot().Resources)
	ports := shadow.Range{First: 20000, Last: 20099}
	if s.Last > 0 {
		ports = shadow.Range{First: s.First, Last: s.Last}
	}
	assigned, short := shadow.Offline(topo, ports)
	return topo, assigned, short
}

func problemLines(found []problem.Problem) string {
	var b strings.Builder
	for _, p := range found {
		fmt.Fprintln(&b, p)
	}
	return b.String()
}
