package traefik

import (
	"regexp"
	"strings"
	"testing"
)

// compiled is the expression that Traefik makes of a template, as its router does it: what is outside of braces is
// literal, what is inside behind the colon is an expression.
func compiled(t *testing.T, template string) *regexp.Regexp {
	t.Helper()
	raw, expr, ok := strings.Cut(template, "{path:")
	if !ok || !strings.HasSuffix(expr, "}") {
		t.Fatalf("%q is no template", template)
	}
	level := 0
	for i := range len(expr) - 1 {
		switch expr[i] {
		case '{':
			level++
		case '}':
			level--
		}
		if level < 0 {
			t.Fatalf("the braces of %q do not come in pairs", template)
		}
	}
	if level != 0 {
		t.Fatalf("the braces of %q do not come in pairs", template)
	}
	return regexp.MustCompile("^" + regexp.QuoteMeta(raw) + "(?P<v0>" + strings.TrimSuffix(expr, "}") + ")")
}

// fits judges a path as Traefik would by what pathTemplate says.
func fits(t *testing.T, expr, path string) bool {
	t.Helper()
	template, any, none, err := pathTemplate(expr)
	if err != nil {
		t.Fatalf("%q: %v", expr, err)
	}
	return any || !none && compiled(t, template).MatchString(path)
}

// TestPathTemplate is rule S1: tied to the start of the path, and to nothing else.
func TestPathTemplate(t *testing.T) {
	for _, tc := range []struct {
		expr, path string
		want       bool
	}{
		{"/metrics", "/metrics", true},
		{"/metrics", "/metricsfoo", true},
		{"/metrics", "/x/metrics", false},
		{"/a|/b", "/b/c", true},
		{"/a|/b", "/x/b", false},
		{"^/a|/b", "/b", true},
		{"^/a|/b", "/x/b", false},
		{"(?i)/x", "/X", true},
		{"(?i)/x|/y", "/Y", true},
		{"(?m)^/x", "/a\n/x", false},
		{"(?m)/a$", "/a\n/x", true},
		{"/x$", "/x", true},
		{"/x$", "/xy", false},
		{".*", "/anything", true},
		{"x", "/x", false},
		{"x*", "/anything", true},
		{"$", "/anything", false},
		{"[^a]b", "/b", true},
		{"[^/]b", "/b", false},
		{".b", "/b", true},
		{"(/a)+", "/a/b", true},
		{"(/a){2}", "/a/b", false},
		{"(/a){2}", "/a/ab", true},
		{"(/a){2,3}$", "/a/a/a", true},
		{"(/a){2,3}$", "/a/a/a/a", false},
		{"(^|/){3}b", "//b", true},
		{"(^|/){3}b", "////b", false},
		{"(x|)/a", "/a", true},
		{`\B/a`, "/a", true},
		{`\b/a`, "/a", false},
		{`/\ba`, "/a", true},
		{"/a{2}", "/aa", true},
		{`/a\{2`, "/a{2", true},
		{`/a\}`, "/a}", true},
		{`/[{}]`, "/}", true},
		{`/\\{2}`, `/\\`, true},
		{`/\\{2}`, `/\`, false},
		{"/a`b", "/a`b", true},
		{"/ä+", "/ää", true},
		{"/[ä-ü]", "/ö", true},
		{`\Q/a.b`, "/a.b", true},
		{`\Q/a.b`, "/aXb", false},
		{`\Q/a.b\E|/c`, "/c", true},
		{"(?P<v0>/a)", "/a", true},
		{"/(?P<v0>a)(?P<path>b)", "/ab", true},
	} {
		if got := fits(t, tc.expr, tc.path); got != tc.want {
			template, any, none, _ := pathTemplate(tc.expr)
			t.Errorf("%q on %q: got %v, as %q (any %v, none %v)", tc.expr, tc.path, got, template, any, none)
		}
	}
}

// FuzzPathTemplate: whatever compiles fits the same paths as a template, or is refused.
func FuzzPathTemplate(f *testing.F) {
	for _, expr := range []string{
		"/a|/b", "(?i)/x", `\Qa(`, `\\Q(a)`, "(?m)^/a$", "/a{2,}", "[^/]+", `\`, "(?s).", `\pL`, "(^|/){2,5}", "(a*/?)+b", `/\{`, `(/|\b){3,}`,
		"/a`) || PathPrefix(`/", `/"\x00`, "((^|x*){2}/){1,3}", `(?U)/a+?`, "(?:$|/)*",
	} {
		f.Add(expr, "/a\n/x")
		f.Add(expr, "/b{`}")
	}
	f.Fuzz(func(t *testing.T, expr, path string) {
		want, err := regexp.Compile("^(?:" + expr + ")")
		if err != nil || strings.Contains(expr, `\Q`) {
			t.Skip()
		}
		if _, err := regexp.Compile(expr); err != nil {
			t.Skip() // it breaks out of the group
		}
		path = "/" + path
		if _, _, _, err := pathTemplate(expr); err != nil {
			t.Skip() // too large
		}
		if got := fits(t, expr, path); got != want.MatchString(path) {
			template, any, none, _ := pathTemplate(expr)
			t.Errorf("%q on %q: got %v, as %q (any %v, none %v)", expr, path, got, template, any, none)
		}
	})
}
