package smi_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/smi"
)

// newest versions of the kinds that have several.
var convertible = []struct {
	group, kind string
	newest      int
}{
	{smi.SplitGroup, "TrafficSplit", 4},
	{smi.SpecsGroup, "HTTPRouteGroup", 4},
	{smi.SpecsGroup, "TCPRoute", 4},
	{smi.SpecsGroup, "UDPRoute", 4},
	{smi.AccessGroup, "TrafficTarget", 3},
}

func version(group string, n int) string { return fmt.Sprintf("%s/v1alpha%d", group, n) }

func newestOf(t *testing.T, o map[string]any) (group string, newest int) {
	t.Helper()
	for _, k := range convertible {
		if o["kind"] == k.kind {
			return k.group, k.newest
		}
	}
	t.Fatalf("what is a %v?", o["kind"])
	return "", 0
}

func convert(t *testing.T, o map[string]any, apiVersion string) map[string]any {
	t.Helper()
	before := runtime.DeepCopyJSON(o)
	out, err := smi.Convert(o, apiVersion)
	if err != nil {
		t.Fatalf("%v\n%v", err, o)
	}
	if !reflect.DeepEqual(before, o) {
		t.Fatalf("the object itself was changed (-before +after):\n%s", cmp.Diff(before, o))
	}
	return runtime.DeepCopyJSON(out)
}

// TestConvertGolden writes each object of a fixture down in every version of its kind. Each comes back the same from
// each, and means the same in each.
func TestConvertGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/convert/*.txtar")
	if err != nil || len(files) != len(convertible) {
		t.Fatalf("%d fixtures: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil || len(a.Files) == 0 || a.Files[0].Name != "in.yaml" {
				t.Fatalf("not a fixture that begins with in.yaml: %v", err)
			}
			got := map[int]string{}
			for _, o := range documents(t, string(a.Files[0].Data)) {
				o = normal(t, o)
				group, newest := newestOf(t, o)
				for n := 1; n <= newest; n++ {
					out := convert(t, o, version(group, n))
					got[n] += "---\n" + encode(t, out)
					if diff := cmp.Diff(o, convert(t, out, o["apiVersion"].(string))); diff != "" {
						t.Errorf("from %s to v1alpha%d and back (-before +after):\n%s", o["apiVersion"], n, diff)
					}
					if diff := cmp.Diff(meaning(t, o), meaning(t, out)); diff != "" {
						t.Errorf("v1alpha%d means something else than %s (-before +after):\n%s", n, o["apiVersion"], diff)
					}
				}
			}
			var out []txtar.File
			for n := 1; n <= len(got); n++ {
				out = append(out, txtar.File{Name: fmt.Sprintf("v1alpha%d.yaml", n), Data: []byte(got[n])})
			}
			if *update {
				a.Files = append(a.Files[:1], out...)
				if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(text(a.Files[1:]), text(out)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func encode(t *testing.T, o any) string {
	t.Helper()
	b, err := yaml.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// normal gives numbers the types that Kubernetes gives them.
func normal(t *testing.T, o map[string]any) map[string]any {
	t.Helper()
	var out map[string]any
	if err := yaml.Unmarshal([]byte(encode(t, o)), &out); err != nil {
		t.Fatal(err)
	}
	return whole(out).(map[string]any)
}

func whole(v any) any {
	switch x := v.(type) {
	case map[string]any:
		for k, e := range x {
			x[k] = whole(e)
		}
	case []any:
		for i, e := range x {
			x[i] = whole(e)
		}
	case float64:
		if x == float64(int64(x)) {
			return int64(x)
		}
	}
	return v
}

// meaning is what an object decodes to, whatever its version.
func meaning(t *testing.T, o map[string]any) any {
	t.Helper()
	objects, problems := smi.DecodeAll([]map[string]any{o})
	for i := range problems {
		problems[i].Message, problems[i].Object.APIVersion = "", ""
	}
	for _, ref := range refs(&objects) {
		ref.APIVersion = ""
	}
	return []any{objects, problems}
}

func refs(o *smi.Objects) (out []*problem.Ref) {
	for i := range o.TrafficSplits {
		out = append(out, &o.TrafficSplits[i].Ref)
	}
	for i := range o.HTTPRouteGroups {
		out = append(out, &o.HTTPRouteGroups[i].Ref)
	}
	for i := range o.TCPRoutes {
		out = append(out, &o.TCPRoutes[i].Ref)
	}
	for i := range o.UDPRoutes {
		out = append(out, &o.UDPRoutes[i].Ref)
	}
	for i := range o.TrafficTargets {
		out = append(out, &o.TrafficTargets[i].Ref)
	}
	return out
}

// TestConvertLosesNothing takes random objects of every kind and version along random ways through other versions: they
// come back the same, and mean the same all the way.
func TestConvertLosesNothing(t *testing.T) {
	for seed := range uint64(300) {
		r := &random{rand.New(rand.NewPCG(seed, 3))}
		for _, k := range convertible {
			for n := 1; n <= k.newest; n++ {
				o := r.object(k.group, k.kind, n)
				want := meaning(t, o)
				way, at := []int{n}, o
				for range 1 + r.IntN(4) {
					next := 1 + r.IntN(k.newest)
					way, at = append(way, next), convert(t, at, version(k.group, next))
					if got := meaning(t, at); !reflect.DeepEqual(want, got) {
						t.Fatalf("seed %d: on the way %v the meaning changed (-before +after):\n%s\n%s\n%s", seed, way, cmp.Diff(want, got), encode(t, o), encode(t, at))
					}
				}
				if back := convert(t, at, version(k.group, n)); !reflect.DeepEqual(o, back) {
					t.Fatalf("seed %d: on the way %v and back (-before +after):\n%s\n%s", seed, way, cmp.Diff(o, back), encode(t, at))
				}
			}
		}
	}
}

// TestConvertKeepsWhatAClientDoesNotKnow: a client of an older version reads an object, changes what it knows, and writes
// it back.
func TestConvertKeepsWhatAClientDoesNotKnow(t *testing.T) {
	edit := func(old string, o string, change func(o map[string]any)) map[string]any {
		content := normal(t, documents(t, o)[0])
		read := convert(t, content, old)
		change(read)
		return convert(t, read, content["apiVersion"].(string))
	}
	spec := func(o map[string]any) map[string]any { return o["spec"].(map[string]any) }
	split := `{apiVersion: split.smi-spec.io/v1alpha4, kind: TrafficSplit, metadata: {name: s}, spec: {service: web, matches: [{kind: HTTPRouteGroup, name: g}], backends: [{service: a, weight: 1}, {service: b, weight: 2}]}}`
	for _, old := range []string{"v1alpha1", "v1alpha2", "v1alpha3"} {
		got := edit("split.smi-spec.io/"+old, split, func(o map[string]any) {
			spec(o)["backends"] = spec(o)["backends"].([]any)[:1]
		})
		if fmt.Sprint(spec(got)["matches"], spec(got)["backends"]) != "[map[kind:HTTPRouteGroup name:g]] [map[service:a weight:1]]" {
			t.Errorf("%s: %v", old, got)
		}
	}
	group := `{apiVersion: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, metadata: {name: g}, spec: {matches: [{name: a, headers: {x: "1"}}, {name: b}, {name: b, headers: {x: "2"}}, {name: c}]}}`
	got := edit("specs.smi-spec.io/v1alpha1", group, func(o map[string]any) {
		o["matches"] = append(o["matches"].([]any)[1:], map[string]any{"name": "d"})
	})
	if fmt.Sprint(spec(got)["matches"]) != "[map[name:b] map[headers:map[x:2] name:b] map[name:c] map[name:d]]" {
		t.Errorf("a match less and one more: %v", got)
	}
	weights := `{apiVersion: split.smi-spec.io/v1alpha1, kind: TrafficSplit, metadata: {name: s}, spec: {service: web, backends: [{service: a, weight: 500m}, {service: b, weight: 1000m}, {service: c, weight: 2}]}}`
	got = edit("split.smi-spec.io/v1alpha4", weights, func(o map[string]any) {
		spec(o)["backends"].([]any)[1].(map[string]any)["weight"] = int64(2500)
	})
	if fmt.Sprint(spec(got)["backends"]) != "[map[service:a weight:500m] map[service:b weight:2500m] map[service:c weight:2]]" || got["metadata"].(map[string]any)["annotations"] != nil {
		t.Errorf("another weight: %v", got)
	}
}

// TestConvertTooMuch: what is too much for an annotation can still be read in an older version, and not written there.
func TestConvertTooMuch(t *testing.T) {
	var matches []any
	for i := range 6000 {
		matches = append(matches, map[string]any{"name": fmt.Sprintf("match-%d", i), "headers": map[string]any{"x-name": strings.Repeat("x", 40)}})
	}
	o := map[string]any{"apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "metadata": map[string]any{"name": "g"}, "spec": map[string]any{"matches": matches}}
	read := convert(t, o, "specs.smi-spec.io/v1alpha1")
	if len(read["matches"].([]any)) != 6000 {
		t.Errorf("%d matches can be read", len(read["matches"].([]any)))
	}
	if _, err := smi.Convert(read, "specs.smi-spec.io/v1alpha4"); err == nil || !strings.Contains(err.Error(), "change it in the newest version") {
		t.Errorf("written: %v", err)
	}
	if object, problems := smi.Decode(read); object != nil || len(problems) != 1 {
		t.Errorf("half of it counts: %v %v", object, problems)
	}
}

func TestConvertRefuses(t *testing.T) {
	for _, c := range [][3]string{
		{"split.smi-spec.io/v1alpha4", "TrafficSplit", "split.smi-spec.io/v1alpha5"},
		{"split.smi-spec.io/v1alpha4", "TrafficSplit", "access.smi-spec.io/v1alpha1"},
		{"split.smi-spec.io/v2", "TrafficSplit", "split.smi-spec.io/v1alpha1"},
		{"split.smi-spec.io/v1alpha4", "TrafficTarget", "split.smi-spec.io/v1alpha1"},
		{"access.smi-spec.io/v1alpha3", "TrafficTarget", "access.smi-spec.io/v1alpha4"},
		{"", "", ""},
	} {
		if out, err := smi.Convert(map[string]any{"apiVersion": c[0], "kind": c[1], "metadata": map[string]any{"name": "x"}}, c[2]); err == nil {
			t.Errorf("%v becomes %v", c, out)
		}
	}
}

// random makes objects that the schemas of their version admit.
type random struct{ *rand.Rand }

func (r *random) pick(values ...any) any { return values[r.IntN(len(values))] }

// maybe sets a field, or not.
func (r *random) maybe(o map[string]any, field string, value any) {
	if r.IntN(4) > 0 {
		o[field] = value
	}
}

func (r *random) list(most int, element func() any) []any {
	out := []any{}
	for range r.IntN(most + 1) {
		out = append(out, element())
	}
	return out
}

func (r *random) name() any { return r.pick("a", "b", "c", "web", "a.b") }

func (r *random) object(group, kind string, n int) map[string]any {
	metadata := map[string]any{"name": "x", "namespace": "shop", "uid": "u"}
	if r.IntN(2) == 0 {
		metadata["annotations"] = map[string]any{"note": "x<y"}
	}
	o := map[string]any{"apiVersion": version(group, n), "kind": kind, "metadata": metadata}
	switch kind {
	case "TrafficSplit":
		o["spec"] = r.split(n)
	case "HTTPRouteGroup":
		body := map[string]any{}
		r.maybe(body, "matches", r.list(4, func() any { return r.match(n) }))
		r.body(o, body, n >= 3)
	case "TCPRoute":
		switch n {
		case 3:
			r.maybe(o, "spec", map[string]any{})
		case 4:
			r.maybe(o, "spec", r.ports())
		}
	case "UDPRoute":
		r.maybe(o, "spec", r.ports())
	case "TrafficTarget":
		body := map[string]any{"destination": r.subject(n)}
		r.maybe(body, "sources", r.list(3, func() any { return r.subject(n) }))
		r.maybe(body, map[bool]string{true: "specs", false: "rules"}[n == 1], r.list(3, r.rule))
		r.body(o, body, n >= 2)
	}
	return o
}

func (r *random) body(o, body map[string]any, nested bool) {
	if nested {
		o["spec"] = body
		return
	}
	maps.Copy(o, body)
}

func (r *random) split(n int) map[string]any {
	spec := map[string]any{"service": r.name()}
	spec["backends"] = r.list(4, func() any {
		b := map[string]any{"service": r.name(), "weight": r.pick(int64(0), int64(1), int64(50), int64(1000), int64(1500), int64(2147483647))}
		if n == 1 {
			b["weight"] = r.pick("0", "1", "10", "500m", "1000m", "1k", "1.5", "1e3", "3M", int64(1), int64(0), int64(2147483647), "0.0001", "1Ki")
		}
		return b
	})
	if n >= 3 {
		r.maybe(spec, "matches", r.list(2, func() any { return map[string]any{"kind": "HTTPRouteGroup", "name": r.name()} }))
	}
	return spec
}

func (r *random) match(n int) any {
	m := map[string]any{}
	r.maybe(m, "name", r.name())
	r.maybe(m, "pathRegex", r.pick("/a", "", "(?i)/<&>"))
	r.maybe(m, "methods", []any{r.pick("GET", "*")})
	if n >= 2 {
		one := map[string]any{"x-a": r.pick("a", ".*"), "x-b": "b"}
		r.maybe(m, "headers", r.pick(one, []any{one, map[string]any{"x-a": "c"}}, []any{}))
	}
	return m
}

func (r *random) ports() map[string]any {
	spec := map[string]any{}
	matches := map[string]any{}
	r.maybe(matches, "ports", r.list(3, func() any { return r.pick(int64(1), int64(80), int64(65535)) }))
	r.maybe(matches, "name", r.name())
	r.maybe(spec, "matches", matches)
	return spec
}

func (r *random) subject(int) map[string]any {
	s := map[string]any{"kind": "ServiceAccount", "name": r.name()}
	r.maybe(s, "namespace", r.pick("shop", "other"))
	r.maybe(s, "port", int64(8080))
	return s
}

func (r *random) rule() any {
	rule := map[string]any{"kind": r.pick("HTTPRouteGroup", "TCPRoute", "UDPRoute"), "name": r.name()}
	r.maybe(rule, "matches", r.list(2, r.name))
	return rule
}

// TestRandomObjectsAreWhatTheyShouldBe: a property of objects that make no sense would prove little.
func TestRandomObjectsAreWhatTheyShouldBe(t *testing.T) {
	decoded, kept := 0, map[string]bool{}
	for seed := range uint64(500) {
		r := &random{rand.New(rand.NewPCG(seed, 3))}
		for _, k := range convertible {
			o := r.object(k.group, k.kind, 1+r.IntN(k.newest))
			if object, _ := smi.Decode(o); object != nil {
				decoded++
			}
			for n := 1; n <= k.newest; n++ {
				annotations, _ := convert(t, o, version(k.group, n))["metadata"].(map[string]any)["annotations"].(map[string]any)
				for _, a := range []string{smi.NewerAnnotation, smi.OlderAnnotation} {
					if annotations[a] != nil {
						kept[k.kind+" "+a] = true
					}
				}
			}
		}
	}
	if decoded < 1000 {
		t.Errorf("%d of 2500 objects make sense", decoded)
	}
	for _, want := range []string{"TrafficSplit " + smi.NewerAnnotation, "TrafficSplit " + smi.OlderAnnotation, "HTTPRouteGroup " + smi.NewerAnnotation, "TCPRoute " + smi.NewerAnnotation} {
		if !kept[want] {
			t.Errorf("never an annotation: %s, only %v", want, slices.Sorted(func(yield func(string) bool) {
				for k := range kept {
					if !yield(k) {
						return
					}
				}
			}))
		}
	}
}
