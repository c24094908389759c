package problem_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tulle-mesh/tulle/internal/problem"
)

// TestReasonsAreDocumented walks the list of reasons both ways: each has a doc line and a section in docs/problems.md
// with its three parts, and each section is about a reason.
func TestReasonsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/problems.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	for _, s := range strings.Split(string(page), "\n### ")[1:] {
		name, text, _ := strings.Cut(s, "\n")
		if _, double := sections[name]; double {
			t.Errorf("docs/problems.md has two sections %s", name)
		}
		sections[name] = text
	}
	camelCase := regexp.MustCompile(`^([A-Z][a-zA-Z0-9]+)$`)
	for name, doc := range reasons(t) {
		if !camelCase.MatchString(name) {
			t.Errorf("%s is not CamelCase", name)
		}
		if !strings.HasPrefix(doc, name+" is ") || strings.Count(strings.TrimSpace(doc), "\n") > 0 {
			t.Errorf("reasons.go: %s needs one doc line, %q", name, name+" is …")
		}
		text, ok := sections[name]
		if !ok {
			t.Errorf("docs/problems.md has no section %s", name)
		}
		for _, part := range []string{"**Means:** ", "**The mesh:** ", "**To do:** "} {
			if ok && !strings.Contains(text, part) {
				t.Errorf("docs/problems.md: the section %s lacks %q", name, part)
			}
		}
		delete(sections, name)
	}
	for name := range sections {
		t.Errorf("docs/problems.md has a section %s, which is no reason", name)
	}
}

// reasons reads the constants of reasons.go with their doc lines.
func reasons(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "reasons.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, d := range file.Decls {
		decl, ok := d.(*ast.GenDecl)
		if !ok || decl.Tok != token.CONST {
			continue
		}
		for _, spec := range decl.Specs {
			v := spec.(*ast.ValueSpec)
			value, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			if err != nil || value != v.Names[0].Name {
				t.Errorf("the constant %s has the value %s", v.Names[0].Name, value)
			}
			if _, double := out[value]; double {
				t.Errorf("two constants have the value %s", value)
			}
			out[value] = v.Doc.Text()
		}
	}
	if len(out) == 0 {
		t.Fatal("reasons.go has no reasons")
	}
	return out
}

func TestMessagesFitAnEvent(t *testing.T) {
	long := strings.Repeat("ä", 1<<20)
	p := problem.Newf(problem.Ref{}, problem.InvalidObject, "%s", long)
	if len(p.Message) > 1024 || !utf8.ValidString(p.Message) || !strings.HasSuffix(p.Message, "ä…") {
		t.Errorf("got a message of %d bytes that ends in %q", len(p.Message), p.Message[len(p.Message)-9:])
	}
	if p := problem.Newf(problem.Ref{}, problem.InvalidObject, "weight %d", 3); p.Message != "weight 3" {
		t.Errorf("got %q", p.Message)
	}
}

func TestQuoteAllNamesAFew(t *testing.T) {
	for want, in := range map[string][]string{
		"":                                   nil,
		`"a"`:                                {"a"},
		`"a", "b"`:                           {"a", "b"},
		`"1", "2", "3", "4", "5" and 2 more`: {"1", "2", "3", "4", "5", "6", "7"},
	} {
		if got := problem.QuoteAll(in); got != want {
			t.Errorf("QuoteAll(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestQuoteIsShortAndPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"abc":                         `"abc"`,
		"a\x00\xffb":                  `"a\x00\xffb"`,
		strings.Repeat("x", 1000):     `"` + strings.Repeat("x", 60) + `…"`,
		"x" + strings.Repeat("ä", 99): `"x` + strings.Repeat("ä", 29) + `…"`,
	} {
		if got := problem.Quote(in); got != want {
			t.Errorf("Quote(%.20q) = %s, want %s", in, got, want)
		}
	}
}
