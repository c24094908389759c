package observed

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/internal/access"
)

func TestPattern(t *testing.T) {
	for path, want := range map[string]string{
		"/":                   "/",
		"*":                   "*",
		"/items":              "/items",
		"/items/":             "/items/",
		"/items/17":           "/items/#number",
		"/items/17/":          "/items/#number/",
		"/v1/items/0/parts/9": "/v1/items/#number/parts/#number",
		"/u/3fa85f64-5717-4562-b3fc-2c963f66afa6": "/u/#uuid",
		"/u/3FA85F64-5717-4562-B3FC-2C963F66AFA6": "/u/#uuid",
		"/u/3fa85f64-5717-4562-b3fc-2c963f66afa":  "/u/#token", // one digit less
		"/d/2026-01-31":                           "/d/#date",
		"/d/2026-1-31":                            "/d/2026-1-31",
		"/c/0123456789abcdef":                     "/c/#hex",
		"/c/0123456789abcde":                      "/c/0123456789abcde", // 15
		"/c/deadbeefdeadbeef":                     "/c/deadbeefdeadbeef",
		"/c/1234567890123456":                     "/c/#number",
		"/t/abcdefghijklmnopqrstu123":             "/t/abcdefghijklmnopqrstu123", // 3 digits make a name
		"/t/abcdefghijklmnopqrst1234":             "/t/#token",
		"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
		"//a/../items/%31%37":          "/items/#number", // what rules judge is the canonical form
		"/a%2fb":                       "#unsafe",
		"/a#number":                    "#unsafe", // nobody can write a kind
		"/a b":                         "#unsafe",
		"":                             "#unsafe",
		"/caf\u00e9":                   "/caf%C3%A9",
		"/" + strings.Repeat("x", 255): "/" + strings.Repeat("x", 255),
		"/" + strings.Repeat("x", 256): "#long",
		"/" + strings.Repeat("1", 999): "/#number",
	} {
		got := Pattern(path, false)
		if got != want {
			t.Errorf("%s is recorded as %s, want %s", path, got, want)
		}
		if !isPattern(got) {
			t.Errorf("%s is taken for no pattern", got)
		}
	}
	if got := Pattern("/a%2fb/1", true); got != "/a%2fb/#number" {
		t.Errorf("with encoded slashes: %s", got)
	}
}

func TestIsPattern(t *testing.T) {
	for _, p := range []string{"", "x", "/a b", "/a\nb", "/#", "/#other", "/#any", "/a#b", `/a\b`, "/" + strings.Repeat("x", 256), "#other"} {
		if isPattern(p) {
			t.Errorf("%q is taken for a pattern", p)
		}
	}
}

// The expression of a pattern fits the paths that it stands for, to their ends, and no others.
func TestRegexOf(t *testing.T) {
	for _, tc := range []struct{ path, fits, not string }{
		{"/", "/", "/a //"},
		{"*", "*", "/ ** a"},
		{"/items", "/items", "/items/ /itemsx /x/items /item"},
		{"/items/17", "/items/18 /items/0", "/items/ /items/x /items/17/ /items/17x"},
		{"/a.b/(c)+", "/a.b/(c)+", "/axb/(c)+ /a.b/c /a.b/cc"},
		{"/3fa85f64-5717-4562-b3fc-2c963f66afa6", "/00000000-0000-0000-0000-00000000000A", "/0-0-0-0-0 /00000000-0000-0000-0000-00000000000A/x"},
		{"/2026-01-31", "/1999-12-01", "/1999-12-1 /99-12-01"},
		{"/0123456789abcdef", "/ffffffffffffffff /0123456789ABCDEF0", "/0123456789abcde /0123456789abcdeg"},
		{"/abcdefghijklmnopqrst1234", "/abcdefghijklmnopqrstuvwxyz", "/abcdefghijklmnopqrst123 /abcdefghijklmnopqrst1234/x"},
	} {
		expr, _ := regexOf(Pattern(tc.path, false))
		re := regexp.MustCompile("^(?:" + expr + ")")
		for _, p := range append(strings.Fields(tc.fits), tc.path) {
			if !re.MatchString(p) {
				t.Errorf("%s does not fit %s", p, expr)
			}
		}
		for p := range strings.FieldsSeq(tc.not) {
			if re.MatchString(p) {
				t.Errorf("%s fits %s", p, expr)
			}
		}
	}
}

func TestFold(t *testing.T) {
	users := func(n int, tail string) []string {
		var out []string
		for i := range n {
			out = append(out, fmt.Sprintf("/users/u%c%s", 'a'+i, tail))
		}
		return out
	}
	for name, tc := range map[string]struct {
		patterns []string
		want     map[string]string // what changes
	}{
		"few":      {users(maxNames, ""), nil},
		"no paths": {[]string{"*"}, nil},
		"many": {
			append(users(maxNames+1, "/cart"), "/users/", "/users", "/users/ua/orders", "/other/ua"),
			map[string]string{"/users/ua/cart": "/users/#any/cart", "/users/uu/cart": "/users/#any/cart", "/users/ua/orders": "/users/#any/orders"},
		},
		"kinds count, too":   {append(users(maxNames, ""), "/users/#number"), map[string]string{"/users/ua": "/users/#any", "/users/#number": "/users/#any"}},
		"a slash is no name": {append(users(maxNames, ""), "/users/"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := fold(tc.patterns)
			if len(got) != len(tc.patterns) {
				t.Errorf("%d patterns became %d", len(tc.patterns), len(got))
			}
			for from, to := range got {
				want, changes := tc.want[from]
				if changes && to != want || tc.want == nil && to != from {
					t.Errorf("%s became %s", from, to)
				}
			}
		})
	}
	got := fold(append(users(maxNames+1, ""), "/users/", "/users", "/other/ua"))
	want := map[string]string{"/users/": "/users/", "/users": "/users", "/other/ua": "/other/ua"}
	for _, u := range users(maxNames+1, "") {
		want[u] = "/users/#any"
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// FuzzPattern: whatever is asked for becomes a pattern whose expression fits what was asked for.
func FuzzPattern(f *testing.F) {
	for _, path := range []string{"/items/17/x", "//a/../%31", "*", "/a%2Fb", "/(a+)+$", "/2026-01-02/0123456789abcdef/"} {
		f.Add(path, true)
	}
	f.Fuzz(func(t *testing.T, path string, encodedSlash bool) {
		p := Pattern(path, encodedSlash)
		if !isPattern(p) {
			t.Fatalf("%q becomes %q", path, p)
		}
		if p == Unsafe || p == Long {
			return
		}
		canonical, ok := access.Canonical(path, encodedSlash)
		expr, _ := regexOf(p)
		if !ok || !regexp.MustCompile("^(?:"+expr+")").MatchString(canonical) {
			t.Fatalf("%q does not fit %q", canonical, expr)
		}
	})
}
