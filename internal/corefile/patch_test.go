package corefile

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns/caddy/caddyfile"
	"github.com/google/go-cmp/cmp"
)

const plain = ".:53 {\n    errors\n    kubernetes cluster.local in-addr.arpa ip6.arpa {\n        pods insecure\n    }\n    forward . /etc/resolv.conf\n    reload\n}\n"

func testBlock() Block {
	return Block{Mesh: "tulle-system", Zones: []string{"mesh"}, Servers: []netip.Addr{netip.MustParseAddr("10.96.12.34")}, Cache: true}
}

// mustPatch patches and checks what holds for every patch: CoreDNS's own parser reads the same server blocks as before
// and the mesh's, a second patch changes nothing, one with other servers stays in its place, and unpatching gives the
// text from before.
func mustPatch(t *testing.T, text string, b Block) string {
	t.Helper()
	out, err := b.Patch(text)
	if err != nil {
		t.Fatalf("patch: %v", err)
	}
	before, ok := caddyParse(text)
	after, still := caddyParse(out)
	if !ok || !still {
		t.Fatalf("CoreDNS parsed the text before: %v, after: %v\n%s", ok, still, out)
	}
	if len(after) < len(before) || cmp.Diff(before, after[:len(before)]) != "" {
		t.Fatalf("other server blocks read differently now:\n%s", cmp.Diff(before, after))
	}
	if again, err := b.Patch(out); err != nil || again != out {
		t.Fatalf("a second patch changed the text (%v):\n%s", err, cmp.Diff(out, again))
	}
	moved := b
	moved.Servers = []netip.Addr{netip.MustParseAddr("fd00::53"), netip.MustParseAddr("10.1.1.1")}
	other, err := moved.Patch(out)
	if err != nil || other == out || strings.Count(other, "\n") < strings.Count(out, "\n") {
		t.Fatalf("patch with other servers: %v\n%s", err, other)
	}
	for _, patched := range []string{out, other} {
		if back, err := Unpatch(patched, b.Mesh); err != nil || back != text {
			t.Fatalf("unpatch: %v\n%s", err, cmp.Diff(text, back))
		}
	}
	return out
}

// caddyParse is CoreDNS's own opinion of a Corefile. Line numbers are left out.
func caddyParse(text string) ([]caddyfile.ServerBlock, bool) {
	blocks, err := caddyfile.Parse("/nonexistent/Corefile", strings.NewReader(text), nil)
	for _, b := range blocks {
		for _, tokens := range b.Tokens {
			for i := range tokens {
				tokens[i].Line = 0
			}
		}
	}
	return blocks, err == nil
}

func TestPatchLayouts(t *testing.T) {
	for name, text := range map[string]string{
		"plain":                plain,
		"no newline at end":    strings.TrimSuffix(plain, "\n"),
		"crlf":                 strings.ReplaceAll(plain, "\n", "\r\n"),
		"crlf, none at end":    strings.TrimSuffix(strings.ReplaceAll(plain, "\n", "\r\n"), "\r\n"),
		"ends in cr":           strings.TrimSuffix(plain, "\n") + "\r",
		"mixed line breaks":    "# a\r\n" + plain,
		"tabs":                 strings.ReplaceAll(plain, "    ", "\t"),
		"comment at end":       plain + "# the end",
		"blank lines at end":   plain + "\n\n  \n",
		"byte order mark":      "\ufeff" + plain,
		"brace on a new line":  ".:53\n{\n  errors\n}\n",
		"several keys":         ".:53 example.org:53, example.com {\n errors\n}\n",
		"keys on lines":        ".:53,\nexample.org {\n errors\n}\n",
		"blocks on one line":   ". {\n errors\n} example.org {\n errors\n}\n",
		"empty block":          ". {\n}\n",
		"snippet":              "(common) {\n errors\n bind 10.0.0.1\n}\n. {\n import common\n}\n",
		"quoted words":         ". {\n template IN A example.org {\n  answer \"{{ .Name }} 60 IN A 1.2.3.4 # no comment\"\n }\n}\n",
		"quoted line break":    ". {\n log . \"a\nb\"\n}\n",
		"quoted marker":        ". {\n log . \"a\n# BEGIN tulle tulle-system mesh: x\nb\"\n}\n",
		"comment with brace":   ". { # {\n errors # }\n}\n",
		"environment":          "{$ZONE}:53 {\n errors\n}\n. {\n bind {$POD_IP}\n}\n",
		"tls beside":           "tls://.:853 {\n tls a b\n}\n. {\n errors\n}\n",
		"multisocket":          ". {\n multisocket 2\n errors\n}\n",
		"similar comments":     "# BEGIN tulle\n# BEGIN tuller tulle-system: x\n#BEGIN tulle tulle-system mesh: x\n" + plain,
		"only kubernetes zone": "cluster.local:1053 {\n kubernetes cluster.local\n}\n",
	} {
		t.Run(name, func(t *testing.T) { mustPatch(t, text, testBlock()) })
	}
}

func TestListenersFollowTheRoot(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []string // head and bind lines of the mesh's server blocks
	}{
		"port":         {".:53 {\n}\n", []string{"mesh:53 {"}},
		"default port": {". {\n}\n", []string{"mesh {"}},
		"high port":    {"dns://.:1053 {\n}\n", []string{"mesh:1053 {"}},
		"two ports":    {".:53 .:1053 {\n bind 10.0.0.1\n}\n", []string{"mesh:53 mesh:1053 {", "bind 10.0.0.1"}},
		"plain DNS only": {
			"tls://.:853 {\n bind 10.0.0.9\n}\n.:53 {\n}\n", []string{"mesh:53 {"},
		},
		"binds apart": {
			".:53 {\n bind 10.0.0.1\n}\n.:53 {\n bind 10.0.0.2 {\n  except lo\n }\n}\n",
			[]string{"mesh:53 {", "bind 10.0.0.1", "mesh:53 {", "bind 10.0.0.2 {"},
		},
		"several bind lines": {". {\n bind lo\n bind \"eth 0\"\n}\n", []string{"mesh {", "bind lo", `bind "eth 0"`}},
		"bind in a snippet":  {"(b) {\n bind 10.0.0.7\n}\n(c) {\n import b\n}\n. {\n import c\n}\n", []string{"mesh {", "bind 10.0.0.7"}},
		"not other zones": {
			"example.org:5300 {\n bind 10.0.0.3\n}\n. {\n bind 10.0.0.4\n}\n", []string{"mesh {", "bind 10.0.0.4"},
		},
		"no root": {"cluster.local:53 {\n bind 10.0.0.5\n kubernetes cluster.local\n}\nexample.org:99 {\n}\n", []string{"mesh:53 {", "bind 10.0.0.5"}},
	} {
		t.Run(name, func(t *testing.T) {
			out := mustPatch(t, c.text, testBlock())
			var got []string
			for line := range strings.Lines(out[len(c.text):]) {
				if line = strings.TrimSpace(line); strings.HasPrefix(line, "mesh") || strings.HasPrefix(line, "bind") {
					got = append(got, line)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("server blocks (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPatchRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"empty":               "",
		"no braces":           ".:53\nerrors\n",
		"missing last brace":  ". {\n kubernetes cluster.local {\n  pods insecure\n }\n",
		"stray brace":         plain + "}\n",
		"open quote":          plain + "\"",
		"open quoted word":    plain + "x \"y",
		"trailing comma":      "., {\n}\n",
		"zone without block":  plain + "example.org",
		"nothing for queries": "example.org {\n}\n",
		"brace as a plugin":   ". {\n {\n }\n}\n",
		"import of nothing":   plain + "import\n",
	} {
		t.Run(name, func(t *testing.T) {
			out, err := testBlock().Patch(text)
			if _, ok := errors.AsType[*LayoutError](err); !ok {
				t.Errorf("got %v and\n%s\nwant a LayoutError", err, out)
			}
		})
	}
}

func TestTaken(t *testing.T) {
	block := func(key string) string { return plain + key + " {\n    forward . 10.9.9.9\n}\n" }
	inside := func(line string) string { return ". {\n    " + line + "\n}\n" }
	for text, taken := range map[string]bool{
		block("mesh:53"):                          true,
		block("mesh."):                            true,
		block("MESH:53"):                          true,
		block("dns://mesh:1053"):                  true,
		block("tls://Mesh."):                      true,
		block("example.org, mesh"):                true,
		block("shop.mesh"):                        true,
		block("traefik.mesh:5353"):                true,
		block("notmesh"):                          false,
		block("mesh.example.org"):                 false,
		inside("forward mesh 10.9.9.9"):           true,
		inside("template IN A Web.Shop.Mesh."):    true,
		inside("file /zones/db mesh"):             true,
		inside("rewrite name suffix .mesh .svc."): true,
		inside("rewrite stop name web.shop.mesh web.shop.svc.cluster.local"): true,
		inside("rewrite name www.example.org web.shop.mesh"):                 false,
		inside("hosts {\n 10.0.0.1 web.shop.mesh\n}"):                        true,
		inside("forward . 10.9.9.9 {\n except mesh\n}"):                      false,
		inside("log mesh"):     false,
		inside("cache 5 mesh"): false,
		"(s) {\n forward mesh 10.9.9.9\n}\n" + inside("import s"): true,
		"# mesh:53 {\n" + plain:                                   false,
	} {
		_, err := testBlock().Patch(text)
		e, ok := errors.AsType[*TakenError](err)
		if ok != taken || ok && e.Zone != "mesh" || !ok && err != nil {
			t.Errorf("%q: got %v, want taken: %v", text, err, taken)
		}
		if direct := Taken(text, "tulle-system", []string{"mesh"}); (direct != nil) != taken {
			t.Errorf("%q: Taken says %v", text, direct)
		}
	}
	if err := TakenInside("forward mesh 10.9.9.9", []string{"mesh"}); err == nil {
		t.Error("an imported plugin for the zone went unnoticed")
	}
	if err := TakenInside("log\nerrors", []string{"mesh"}); err != nil {
		t.Errorf("imported plugins: %v", err)
	}
}

// TestHeal is about blocks that hands or tools were at.
func TestHeal(t *testing.T) {
	b := testBlock()
	good := mustPatch(t, plain, b)
	block := good[len(plain):]
	begin, rest, _ := strings.Cut(block, "\n")
	body, end := strings.TrimSuffix(rest, "# END tulle tulle-system\n"), "# END tulle tulle-system\n"
	user := "example.org {\n    forward . 10.9.9.9\n}\n"
	for name, c := range map[string]struct{ in, patched, unpatched string }{
		"edited":               {plain + strings.Replace(block, "    errors\n", "    errors\n    log # why not\n", 1), good, plain},
		"emptied":              {plain + begin + "\n" + end, good, plain},
		"twice":                {plain + block + block, good, plain},
		"no end":               {plain + begin + "\n" + body, good, plain},
		"only the beginning":   {plain + begin + "\n", good, plain},
		"no end, user follows": {plain + begin + "\n" + body + user, plain + user + block, plain + user},
		"user within":          {plain + begin + "\n" + body + user + end, plain + user + block, plain + user},
		"comment within":       {plain + begin + "\n# mine\n" + body + end, plain + "# mine\n" + block, plain + "# mine\n"},
		"user after":           {plain + block + user, plain + block + user, plain + user},
		"no newline at end":    {strings.TrimSuffix(good, "\n"), good, plain},
		"indented":             {plain + strings.ReplaceAll(block, "# ", "  # "), "", plain},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := b.Patch(c.in)
			if err != nil || got != c.patched && c.patched != "" {
				t.Errorf("patch: %v\n%s", err, cmp.Diff(c.patched, got))
			}
			back, err := Unpatch(c.in, b.Mesh)
			if err != nil || back != c.unpatched {
				t.Errorf("unpatch: %v\n%s", err, cmp.Diff(c.unpatched, back))
			}
			if again, err := Unpatch(got, b.Mesh); err != nil || again != c.unpatched {
				t.Errorf("unpatch after patch: %v\n%s", err, cmp.Diff(c.unpatched, again))
			}
		})
	}
	for name, text := range map[string]string{
		"cut in half":     plain + begin + "\n" + body[:len(body)/2],
		"no beginning":    plain + body + end,
		"shares its line": plain + begin + "\n" + strings.TrimSuffix(body, "\n") + " example.org {\n}\n" + end,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := b.Patch(text); !isDamaged(err) {
				t.Errorf("patch: got %v, want a DamagedError", err)
			}
			if _, err := Unpatch(text, b.Mesh); !isDamaged(err) {
				t.Errorf("unpatch: got %v, want a DamagedError", err)
			}
		})
	}
}

func isDamaged(err error) bool {
	_, ok := errors.AsType[*DamagedError](err)
	return ok
}

func TestOtherMesh(t *testing.T) {
	b := testBlock()
	b.Mesh, b.Zones = "second", []string{"second"}
	text := mustPatch(t, plain, b)
	_, err := testBlock().Patch(text)
	if e, ok := errors.AsType[*OtherMeshError](err); !ok || e.Namespace != "second" {
		t.Errorf("got %v, want an OtherMeshError for second", err)
	}
	if same, err := Unpatch(text, "tulle-system"); err != nil || same != text {
		t.Errorf("unpatching one mesh changed another's block: %v\n%s", err, same)
	}
}

func TestUnpatchOfWhatDoesNotParse(t *testing.T) {
	good := mustPatch(t, plain, testBlock())
	bad := "broken {{{ \n"
	if got := BlockOf(bad+good, "tulle-system"); got != good[len(plain):] {
		t.Errorf("BlockOf: %q", got)
	}
	if back, err := Unpatch(bad+good, "tulle-system"); err != nil || back != bad+plain {
		t.Errorf("a bad neighbour kept the block from being taken out: %v\n%s", err, back)
	}
}

func TestReloads(t *testing.T) {
	for text, want := range map[string]time.Duration{
		plain: 45 * time.Second, "reload 6s\nlog": 9 * time.Second, ". {\n errors\n}\n": 0, "": 0, "# reload": 0, ". {{": 0,
		"(s) {\n reload 2s 1s\n}\n. {\n import s\n}": 3 * time.Second, ". {\n reload\n}\na {\n reload 4m\n}": 6 * time.Minute,
		". {\n reload soon\n}": 45 * time.Second,
	} {
		if got := Reloads("", text); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

func FuzzPatch(f *testing.F) {
	for _, s := range []string{plain, strings.TrimSuffix(plain, "\n"), strings.ReplaceAll(plain, "\n", "\r\n"), "(s) {\n bind a {\n x\n }\n}\n. {\n import s\n}", "\ufeff. {\n}", ". {\n log \"a\n\\\"b\"\n}"} {
		f.Add(s)
		if p, err := testBlock().Patch(s); err == nil {
			f.Add(p)
			f.Add(strings.Replace(p, "# END", "# AND", 1))
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		b := testBlock()
		clean, err := Unpatch(text, b.Mesh)
		if err != nil {
			return
		}
		if Has(clean, b.Mesh) {
			t.Fatalf("something of the block is left:\n%s", clean)
		}
		out, err := b.Patch(clean)
		if err != nil {
			return
		}
		if back, err := Unpatch(out, b.Mesh); err != nil || back != clean {
			t.Fatalf("unpatch: %v\n%s", err, cmp.Diff(clean, back))
		}
		if again, err := b.Patch(out); err != nil || again != out {
			t.Fatalf("a second patch: %v\n%s", err, cmp.Diff(out, again))
		}
		if strings.Contains(text, "import") || strings.Contains(text, "{$") || strings.Contains(text, "{%") {
			return // CoreDNS's parser would read our files and environment
		}
		before, ok := caddyParse(clean)
		if !ok {
			return
		}
		after, still := caddyParse(out)
		if !still || len(after) < len(before) || cmp.Diff(before, after[:len(before)]) != "" {
			t.Fatalf("CoreDNS reads it differently (parsed: %v):\n%s", still, out)
		}
		if !slices.ContainsFunc(after, func(s caddyfile.ServerBlock) bool { return strings.HasPrefix(s.Keys[0], "mesh") }) {
			t.Fatalf("the zone is not served:\n%s", out)
		}
		if !bytes.Contains([]byte(out), []byte("10.96.12.34")) {
			t.Fatal("no server")
		}
	})
}

// TestAnotherZoneByHand: the edit that docs/migrating-from-traefik-mesh.md describes is what the mesh itself would write.
func TestAnotherZoneByHand(t *testing.T) {
	theirs := "#### Begin Traefik Mesh Block\ntraefik.mesh:53 {\n    errors\n    cache 30\n    forward . 10.96.0.9:53\n}\n#### End Traefik Mesh Block\n"
	one, both := testBlock(), testBlock()
	one.Zones, both.Zones = []string{"tulle.mesh"}, []string{"tulle.mesh", "traefik.mesh"}
	before := mustPatch(t, plain+theirs, one)
	for _, b := range []Block{both, testBlock()} { // mesh holds traefik.mesh
		if _, err := b.Patch(before); err == nil {
			t.Errorf("%q were taken although Traefik Mesh serves one of them", b.Zones)
		}
	}
	edited := strings.Replace(before, theirs, "", 1)
	edited = strings.Replace(edited, "# BEGIN tulle tulle-system tulle.mesh:", "# BEGIN tulle tulle-system tulle.mesh traefik.mesh:", 1)
	_, server, _ := strings.Cut(edited, "\ntulle.mesh:53 {\n")
	server, _, _ = strings.Cut(server, "\n}\n")
	server += "\n}\n"
	edited = strings.Replace(edited, server, server+"traefik.mesh:53 {\n"+server, 1)
	if got, err := both.Patch(edited); err != nil || got != edited {
		t.Errorf("%v:\n%s", err, cmp.Diff(edited, got))
	}
}
