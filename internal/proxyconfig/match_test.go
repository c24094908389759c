package proxyconfig

import (
	"regexp"
	"testing"

	"github.com/tulle-mesh/tulle/internal/smi"
)

// TestPathRegex is rule S1: tied to the start of the path, and to nothing else.
func TestPathRegex(t *testing.T) {
	for _, tc := range []struct {
		expr, path string
		want       bool
	}{
		{"/metrics", "/metrics", true},
		{"/metrics", "/metricsfoo", true},
		{"/metrics", "/x/metrics", false},
		{"/metrics", "/METRICS", false},
		{"/a|/b", "/a", true},
		{"/a|/b", "/b/c", true},
		{"/a|/b", "/x/b", false},
		{"^/a|/b", "/b", true},
		{"^/a|/b", "/x/b", false},
		{"^/a|^/b", "/b", true},
		{"(?i)/x", "/X", true},
		{"(?i)/x", "/y/X", false},
		{"(?i)/x|/y", "/Y", true},
		{"(?m)^/x", "/a\n/x", false},
		{"/x$", "/x", true},
		{"/x$", "/xy", false},
		{".*", "/anything", true},
		{"", "/anything", true},
		{"x", "/x", false},
		{`\Q/a.b`, "/a.b", true},
		{`\Q/a.b`, "/aXb", false},
		{`\Q/a.b\E|/c`, "/c", true},
		{`\Q/(`, "/(", true},
		{`/\\Q(a|b)`, `/\Qa`, true},
	} {
		m := matchOf(smi.HTTPMatch{PathRegex: tc.expr})
		if got := regexp.MustCompile(m.GetPathRegex()).MatchString(tc.path); got != tc.want {
			t.Errorf("%q on %q: got %v, as %q", tc.expr, tc.path, got, m.GetPathRegex())
		}
	}
}

// TestHeaderRegex is rule S2: the expression is about the whole value, as the examples of the SMI specification have it
// (".*Firefox.*").
func TestHeaderRegex(t *testing.T) {
	for _, tc := range []struct {
		expr, value string
		want        bool
	}{
		{".*Firefox.*", "Mozilla/5.0 Firefox/1", true},
		{"Firefox", "Mozilla/5.0 Firefox/1", false},
		{"a|b", "b", true},
		{"a|b", "ab", false},
		{"^(.*?;)?(type=insider)(;.*)?$", "x=1;type=insider;y=2", true},
		{"^(.*?;)?(type=insider)(;.*)?$", "x=1; type=insiders", false},
		{"(?i)beta", "BETA", true},
		{"(?m)a$", "a\nb", false},
		{"", "", true},
		{"", "x", false},
		{`\Qa.b`, "a.b", true},
		{`\Qa.b`, "a.bc", false},
	} {
		m := matchOf(smi.HTTPMatch{Headers: []smi.HeaderMatch{{Name: "x", ValueRegex: tc.expr}}})
		expr := m.GetHeaders()[0].GetValueRegex()
		if got := regexp.MustCompile(expr).MatchString(tc.value); got != tc.want {
			t.Errorf("%q on %q: got %v, as %q", tc.expr, tc.value, got, expr)
		}
	}
}

// FuzzAnchor: whatever compiles, compiles when it is anchored, and then fits from the start (and to the end).
func FuzzAnchor(f *testing.F) {
	for _, expr := range []string{"/a|/b", "(?i)/x", `\Qa(`, `\\Q(a)`, "(?m)^a$", "a{2,}", "[^/]+", `\`, "(?s).", `\pL`} {
		f.Add(expr, "/a\n/x")
	}
	f.Fuzz(func(t *testing.T, expr, value string) {
		if _, err := regexp.Compile(expr); err != nil {
			t.Skip()
		}
		path, err := regexp.Compile(anchor(expr, ""))
		if err != nil {
			t.Fatalf("%q as a path: %v", expr, err)
		}
		if at := path.FindStringIndex(value); at != nil && at[0] != 0 {
			t.Errorf("%q fits %q at %d", expr, value, at[0])
		}
		header, err := regexp.Compile(anchor(expr, "$"))
		if err != nil {
			t.Fatalf("%q as a header: %v", expr, err)
		}
		if at := header.FindStringIndex(value); at != nil && (at[0] != 0 || at[1] != len(value)) {
			t.Errorf("%q fits a part of %q: %v", expr, value, at)
		}
	})
}
