package access

import (
	"regexp"
	"strings"
	"testing"
)

var exprs = []struct {
	source string
	kind   exprKind
}{
	{"^(?:/a/.*)", begins},
	{"^(?:/a/)", begins},
	{"^/a/.*", begins},
	{"^(/a/(.*))", begins},
	{"^(?:/a/[^/]*)", begins},
	{"^(?:/a/b?)", begins},
	{"^(?:)", begins},
	{"^(?:.*)", begins},
	{`^(?:/a\.json)$`, equals},
	{"^(?:/ä/)$", equals},
	{"^(?:)$", equals},
	{`\A/a\z`, equals},
	{"(?i)^(?:/a/.*)", general},
	{"^(?:(?i)/a)/b$", general},
	{"(?m)^(?:/a/.*)", general},
	{"(?m)^(?:/a)$", general},
	{"^(?:/a/.+)", general},
	{"^(?:/a/.*)$", general},
	{"^(?:/a|/b)", general},
	{"^(?:/a/.*|/b)", general},
	{"^(?:/[ab]/.*)", general},
	{"^(?:/a/.*/b)", general},
	{"^(?:/a{2})", general},
	{"^(?:/�/.*)", general},
	{"/a/.*", general},
	{"^(?:/a)*/b", general},
	{`^(?:/a\b)`, general},
	{"", general},
}

var exprTexts = []string{
	"", "/", "/a", "/A", "/a/", "/A/", "/aa", "/aab", "/b", "/a/b", "/a/b/c", "/ab", "/b/a/", "x/a/", "/a\n", "\n/a", "/a/\n", "/a/\nb", "x\n/a/",
	"/a.json", "/axjson", "/a.json\n", "/a.jsonx", "/ä/", "/a/\xff", "/\xff/", "/�/", "/a /",
}

// An expression that is not searched for says of every text what the search would.
func TestExpr(t *testing.T) {
	for _, x := range exprs {
		e, err := newExpr(x.source)
		if err != nil {
			t.Fatal(err)
		}
		if e.kind != x.kind {
			t.Errorf("%q is of kind %d, want %d", x.source, e.kind, x.kind)
		}
		for _, s := range exprTexts {
			sameAsRegexp(t, x.source, s)
		}
	}
}

func FuzzExpr(f *testing.F) {
	for i, x := range exprs {
		f.Add(x.source, exprTexts[i%len(exprTexts)])
	}
	f.Fuzz(func(t *testing.T, source, s string) {
		if len(source) > 32 {
			return // which takes long to compile, and says no more
		}
		sameAsRegexp(t, source, s)
		sameAsRegexp(t, "^(?:"+source+")", s)
		sameAsRegexp(t, "^(?:"+source+")$", s)
		sameAsRegexp(t, "^(?:"+regexp.QuoteMeta(source)+".*)", s)
		sameAsRegexp(t, "^(?:"+regexp.QuoteMeta(s)+")$", s+strings.Repeat("\n", len(source)%2))
	})
}

func sameAsRegexp(t *testing.T, source, s string) {
	t.Helper()
	re, err := regexp.Compile(source)
	e, err2 := newExpr(source)
	if err != nil || err2 != nil {
		if (err == nil) != (err2 == nil) {
			t.Errorf("%q: %v, and by regexp %v", source, err2, err)
		}
		return
	}
	if got, want := e.MatchString(s), re.MatchString(s); got != want {
		t.Errorf("%q fits %q: %v, by regexp %v", s, source, got, want)
	}
}
