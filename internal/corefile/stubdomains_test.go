package corefile

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

func TestStubDomains(t *testing.T) {
	b := testBlock()
	for in, want := range map[string]string{
		``:                    `{"mesh": ["10.96.12.34"]}`,
		`{}`:                  `{"mesh": ["10.96.12.34"]}`,
		"{ \n}\n":             "{\"mesh\": [\"10.96.12.34\"] \n}\n",
		`{"a":["1.1.1.1"]}`:   `{"mesh": ["10.96.12.34"], "a":["1.1.1.1"]}`,
		`{ "a" : [ "1.1" ] }`: `{"mesh": ["10.96.12.34"],  "a" : [ "1.1" ] }`,
	} {
		got, err := b.patchStubDomains(in, nil)
		if err != nil || got != want {
			t.Errorf("%q: got %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{`[]`, `{"a":}`, `{"a":[]} {}`, `{"a":[]`, `null`, `"x"`} {
		if got, err := b.patchStubDomains(in, nil); err == nil {
			t.Errorf("%q: got %q, want an error", in, got)
		}
	}
	for _, in := range []string{`{"mesh":["1.1.1.1"]}`, `{"Mesh.":["1.1.1.1"]}`, `{"shop.mesh":["1.1.1.1"]}`} {
		_, err := b.patchStubDomains(in, nil)
		if _, ok := errors.AsType[*TakenError](err); !ok {
			t.Errorf("%q: got %v, want a TakenError", in, err)
		}
	}
	if got, err := b.patchStubDomains(`{"mesh": ["9.9.9.9"], "a":[]}`, []string{"mesh"}); err != nil || got != `{"mesh": ["10.96.12.34"], "a":[]}` {
		t.Errorf("other servers: %q, %v", got, err)
	}
}

func TestUnpatchStubDomainsThatWereMoved(t *testing.T) {
	for in, want := range map[string]string{
		"{\n \"a\": [],\n \"mesh\": [\"1.1.1.1\"]\n}": "{\n \"a\": []\n}",
		"{\"a\":[],\"mesh\":[\"1.1.1.1\"],\"b\":[]}":  "{\"a\":[],\"b\":[]}",
		"{\"mesh\":[\"1.1.1.1\"]}":                    "{}",
		"{\"a\":[]}":                                  "{\"a\":[]}",
	} {
		if got, err := unpatchStubDomains(in, []string{"mesh"}); err != nil || got != want {
			t.Errorf("%q: got %q, %v, want %q", in, got, err, want)
		}
	}
}

func TestKubeDNSOfAnotherMesh(t *testing.T) {
	target := Target{Kind: KubeDNS, Place: Place{Key: "stubDomains"}}
	cm, err := target.Patch(&corev1.ConfigMap{}, nil, testBlock())
	if err != nil {
		t.Fatal(err)
	}
	b := testBlock()
	b.Mesh = "second"
	_, err = target.Patch(cm, nil, b)
	if e, ok := errors.AsType[*OtherMeshError](err); !ok || e.Namespace != "tulle-system" {
		t.Errorf("got %v, want an OtherMeshError", err)
	}
	if same, err := target.Unpatch(cm, "second"); err != nil || same != cm {
		t.Errorf("a second mesh's unpatch changed the first one's: %v", err)
	}
}

func FuzzStubDomains(f *testing.F) {
	f.Add(`{"a":["1.1.1.1"],"b" : [ ] }`)
	f.Add("{\n  \"a\": [\"x\"]\n}\n")
	f.Add(` { } `)
	f.Add(`{"a,":["}"], "a":{"mesh":1}}`)
	f.Fuzz(func(t *testing.T, text string) {
		b := testBlock()
		out, err := b.patchStubDomains(text, nil)
		if err != nil {
			return
		}
		var got map[string]json.RawMessage
		if err := json.Unmarshal([]byte(out), &got); err != nil || string(got["mesh"]) != `["10.96.12.34"]` {
			t.Fatalf("%q became %q: %v", text, out, err)
		}
		if again, err := b.patchStubDomains(out, b.Zones); err != nil || again != out {
			t.Fatalf("a second patch: %v\n%s", err, cmp.Diff(out, again))
		}
		back, err := unpatchStubDomains(out, b.Zones)
		if err != nil || back != text && len(got) > 1 {
			t.Fatalf("unpatch: %v\n%s", err, cmp.Diff(text, back))
		}
	})
}
