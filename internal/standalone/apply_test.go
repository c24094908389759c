package standalone

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/files"
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// picky is a data plane that refuses some resources.
type picky map[string]configv1.Refusal

func (p picky) Apply(u configv1.Update) []configv1.Refusal {
	var out []configv1.Refusal
	for _, r := range u.Set {
		if refusal, ok := p[r.Name]; ok {
			refusal.Key, refusal.Version = r.Key, r.Version
			out = append(out, refusal)
		}
	}
	return out
}

func resources(t *testing.T, versions map[string]string) []configv1.Resource {
	t.Helper()
	var out []configv1.Resource
	for _, name := range []string{"shop/a", "shop/b", "shop/c"} {
		if v, ok := versions[name]; ok {
			r, err := configv1.NewResource(name, &configv1.Service{Name: v})
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, r)
		}
	}
	return out
}

// A refusal stays one until the resource changes or goes, though nothing is sent again meanwhile.
func TestRefusals(t *testing.T) {
	a := applied{refused: map[configv1.Key][]configv1.Refusal{}, busy: map[files.Socket]bool{}}
	bind := netip.MustParseAddr("127.64.0.1")
	assigned := shadow.Assigned{Units: map[shadow.Unit]shadow.Assignment{}}
	for _, name := range []string{"a", "b", "c"} {
		u := shadow.Unit{Name: topology.Name{Namespace: "shop", Name: name}}
		assigned.Units[u] = shadow.Assignment{Unit: u, Bind: bind}
	}
	p := picky{"shop/a": {Reason: "odd"}, "shop/b": {Reason: "busy", BusyPort: 53, BusyUDP: true}}
	for _, step := range []struct {
		versions map[string]string
		moved    bool
		refused  []string
	}{
		{map[string]string{"shop/a": "1", "shop/b": "1", "shop/c": "1"}, true, []string{"shop/a", "shop/b"}},
		{map[string]string{"shop/a": "1", "shop/b": "1", "shop/c": "2"}, false, []string{"shop/a", "shop/b"}},
		{map[string]string{"shop/a": "1", "shop/b": "2", "shop/c": "2"}, false, []string{"shop/a", "shop/b"}},
		{map[string]string{"shop/b": "2", "shop/c": "2"}, false, []string{"shop/b"}},
	} {
		if moved := a.give(p, resources(t, step.versions), assigned); moved != step.moved {
			t.Errorf("%v: a new busy port: %v, want %v", step.versions, moved, step.moved)
		}
		var got []string
		for k := range a.refused {
			got = append(got, k.Name)
		}
		if d := cmp.Diff(step.refused, got, cmpopts.SortSlices(func(a, b string) bool { return a < b })); d != "" {
			t.Errorf("%v: refused (-want +got):\n%s", step.versions, d)
		}
	}
	if want := (files.Socket{AddrPort: netip.AddrPortFrom(bind, 53), UDP: true}); len(a.busy) != 1 || !a.busy[want] {
		t.Errorf("busy: %v, want %v", a.busy, want)
	}
	delete(p, "shop/b")
	a.give(p, resources(t, map[string]string{"shop/b": "3", "shop/c": "2"}), assigned)
	if len(a.refused) != 0 {
		t.Errorf("refused: %v, want nothing", a.refused)
	}
}

func TestRefOf(t *testing.T) {
	service := problem.Ref{APIVersion: "v1", Kind: "Service", Namespace: "shop", Name: "web"}
	for key, want := range map[configv1.Key]problem.Ref{
		{Type: configv1.ServiceType, Name: "shop/web"}:       service,
		{Type: configv1.ServiceType, Name: "shop/web/web-0"}: service,
		{Type: configv1.EndpointsType, Name: "shop/web"}:     service,
		{Type: configv1.MeshType, Name: "mesh"}:              {Kind: "Config", Name: "mesh"},
	} {
		if got := refOf(key); got != want {
			t.Errorf("%v is %v, want %v", key, got, want)
		}
	}
}
