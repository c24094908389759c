package configv1

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
)

func resource(t *testing.T, name string) Resource {
	t.Helper()
	r, err := NewResource("shop/web", &Service{Namespace: "shop", Name: name})
	if err != nil {
		t.Fatal(err)
	}
	r.Name = name
	return r
}

func TestVersionIsTheContents(t *testing.T) {
	a, b, c := resource(t, "a"), resource(t, "a"), resource(t, "c")
	if a.Version != b.Version || a.Version == c.Version {
		t.Errorf("versions %q, %q of equal and %q of other content", a.Version, b.Version, c.Version)
	}
}

func TestTypeURLs(t *testing.T) {
	for url, m := range map[string]proto.Message{MeshType: &Mesh{}, EndpointsType: &Endpoints{}, ServiceType: &Service{}, ProxyType: &Proxy{}} {
		if TypeURL(m) != url {
			t.Errorf("type URL %s, want %s", TypeURL(m), url)
		}
	}
}

func TestDiff(t *testing.T) {
	a, b, c := resource(t, "a"), resource(t, "b"), resource(t, "c")
	b2 := b
	b2.Version = "changed"
	for name, test := range map[string]struct {
		before, after []Resource
		set, removed  []string
	}{
		"nothing":       {},
		"equal":         {before: []Resource{a, b}, after: []Resource{a, b}},
		"first":         {after: []Resource{a, b}, set: []string{"a", "b"}},
		"all gone":      {before: []Resource{a, b}, removed: []string{"a", "b"}},
		"changed":       {before: []Resource{a, b, c}, after: []Resource{a, b2, c}, set: []string{"b"}},
		"swapped":       {before: []Resource{a, c}, after: []Resource{b, c}, set: []string{"b"}, removed: []string{"a"}},
		"added at ends": {before: []Resource{b}, after: []Resource{a, b, c}, set: []string{"a", "c"}},
	} {
		t.Run(name, func(t *testing.T) {
			u := Diff(test.before, test.after)
			var set, removed []string
			for _, r := range u.Set {
				set = append(set, r.Name)
			}
			for _, k := range u.Removed {
				removed = append(removed, k.Name)
			}
			if d := cmp.Diff(test.set, set); d != "" {
				t.Errorf("set (-want +got):\n%s", d)
			}
			if d := cmp.Diff(test.removed, removed); d != "" {
				t.Errorf("removed (-want +got):\n%s", d)
			}
		})
	}
}
