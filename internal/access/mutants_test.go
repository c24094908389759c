package access_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// mutants are mistakes that somebody could make in the decision. Each replaces one text of a file.
var mutants = []struct{ name, file, from, to string }{
	{"nobody is known", "access.go", "case Unknown:\n\t\treturn Verdict{Reason: UnknownCaller}", "case Unknown:"},
	{"stale is known", "access.go", "case Stale:\n\t\treturn Verdict{Reason: IdentityStale}", "case Stale:"},
	{"elsewhere is known", "access.go", "case Elsewhere:\n\t\treturn Verdict{Reason: CallerNotLocal}", "case Elsewhere:"},
	{"any source", "access.go", "case a == nil:\n\t\treturn Verdict{Reason: SourceDenied}", "case a == nil:\n\t\treturn Verdict{Rule: &Rule{}}"},
	{"no target allows", "access.go", "case a == nil && len(w.sources) == 0:\n\t\treturn Verdict{Reason: NoTarget}", "case a == nil && len(w.sources) == 0:\n\t\treturn Verdict{}"},
	{"A6 TCP for UDP", "access.go", "return onPort(a.udp.rule(p.Number))", "return onPort(a.tcp.rule(p.Number))"},
	{"A6 UDP for TCP", "access.go", "return onPort(a.tcp.rule(p.Number))", "return onPort(a.udp.rule(p.Number))"},
	{"the raw path is judged", "access.go", "h.match.fits(path, r)", "h.match.fits(r.Path, r)"},
	{"a bad path passes", "access.go", "return Verdict{Reason: BadPath}", "path = r.Path"},
	{"HTTP rules on any port", "access.go", "h.ports.has(port) && h.match.fits", "h.match.fits"},
	{"paths are judged on other ports, too", "access.go", "h.match.path != nil && h.ports.has(port)", "h.match.path != nil"},
	{"route or port", "access.go", "if a.httpPorts.has(port) {", "if len(a.http) > 0 {"},
	{"TCP rules say nothing about HTTP", "access.go", "if v.Rule = a.tcp.rule(port); v.Rule != nil {", "if v.Rule = nil; v.Rule != nil {"},
	{"S2 methods do not count", "match.go", "len(m.methods) > 0 && !slices.Contains", "len(m.methods) > 9 && !slices.Contains"},
	{"S1 paths do not count", "match.go", "m.path != nil && !m.path", "m.path == nil && !m.path"},
	{"S2 headers are ORed", "match.go", "if !h.fits(r) {\n\t\t\treturn false\n\t\t}\n\t}\n\treturn true", "if h.fits(r) {\n\t\t\treturn true\n\t\t}\n\t}\n\treturn len(m.headers) == 0"},
	{"S2 one value is enough", "match.go", "if !h.value.MatchString(v) {\n\t\t\treturn false\n\t\t}\n\t}\n\treturn len(values) > 0", "if h.value.MatchString(v) {\n\t\t\treturn true\n\t\t}\n\t}\n\treturn false"},
	{"a header that is not there fits", "match.go", "return len(values) > 0", "return true"},
	{"the host does not count", "match.go", "values := []string{r.Host}", `values := []string{""}`},
	{"A5 no ports is none", "compile.go", "ports{all: len(r.GetPorts()) == 0, list", "ports{all: false, list"},
	{"A5 ports do not count", "compile.go", "ports{all: len(r.GetPorts()) == 0, list", "ports{all: true, list"},
	{"broken rules are whole", "compile.go", "if !r.GetBroken() {", "if true {"},
	{"broken groups are the first", "compile.go", "if r.GetBroken() {\n\t\treturn nil, nil\n\t}\n", ""},
	{"the limit does not count for TCP", "compile.go", "slices.Sorted(slices.Values(r.GetPorts()))}.only(g.GetPort())", "slices.Sorted(slices.Values(r.GetPorts()))}"},
	{"the limit does not count for HTTP", "compile.go", "return ports{all: true}.only(limit)", "return ports{all: true}"},
	{"the limit adds", "compile.go", "case p.has(port):\n\t\treturn ports{list", "case true:\n\t\treturn ports{list"},
	{"HTTP rules are ignored beside TCP rules", "compile.go", "if parts.isHTTP {", "if parts.isHTTP && len(parts.tcp) == 0 {"},
	{"TCP rules widen HTTP rules", "compile.go", "b.addHTTP(a, id, parts.httpPorts(g.GetPort()), parts.http)\n\t\t\tcontinue", "b.addHTTP(a, id, parts.httpPorts(g.GetPort()), parts.http)"},
	{"TCP rules do not limit HTTP rules", "compile.go", "if len(p.tcp) == 0 {", "if true {"},
	{"A9 the last target counts", "compile.go", "if a == nil {\n\t\t\ta = &allowed{}", "if true {\n\t\t\ta = &allowed{}"},
	{"A8 the namespace does not count", "compile.go", "id := Identity{s.GetNamespace(), s.GetServiceAccount()}", "id := Identity{\"shop\", s.GetServiceAccount()}"},
	{"A4 named matches are all", "compile.go", "if len(r.GetMatches()) > 0 {", "if false {"},
	{"one match of a group is all", "compile.go", `k := fmt.Sprintf("%p %s", h.match, key)`, `k := key`},
	{"encoded slashes pass", "path.go", "b == '/' && !encodedSlash:", "false:"},
	{"escapes stay", "path.go", "case isUnreserved(b):\n\t\t\tout = append(out, b)", "case isUnreserved(b):\n\t\t\tout = append(out, path[i:i+3]...)"},
	{"parameters hide dots", "path.go", `name, _, _ := strings.Cut(segment, ";")`, `name := segment`},
	{"slashes stay doubled", "path.go", `!strings.Contains(decoded, "//") && !`, `!`},
	{"dots climb nowhere", "path.go", "segments = segments[:max(len(segments)-1, 0)]", ""},
	{"an encoded semicolon passes", "path.go", `strings.HasPrefix(name, ".%3B") || strings.HasPrefix(name, "..%3B")`, `false`},
	{"control bytes pass", "path.go", "b == '\\\\' || b < ' ' || b == 0x7f ||", "b == '\\\\' ||"},
	{"backslashes pass", "path.go", "case c == '\\\\' || c == '#'", "case c == '#'"},
}

// TestMutantsAreCaught: a mistake in the decision does not get past TestAgreesWithNaive.
func TestMutantsAreCaught(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the package for every mutant")
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(dir, m.file)
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(source), m.from); n != 1 {
				t.Fatalf("%s has the text %d times: %s", m.file, n, m.from)
			}
			out, caught := runMutant(t, file, strings.Replace(string(source), m.from, m.to, 1))
			if !caught {
				t.Errorf("survived:\n%s", out)
			} else if !strings.Contains(out, "--- FAIL: TestAgreesWithNaive") {
				t.Errorf("did not build or run:\n%s", out)
			}
		})
	}
}

// runMutant runs the test with another content of one file, and says whether it failed.
func runMutant(t *testing.T, file, content string) (out string, failed bool) {
	t.Helper()
	dir := t.TempDir()
	mutant, overlay := filepath.Join(dir, "mutant.go"), filepath.Join(dir, "overlay.json")
	raw, err := json.Marshal(map[string]map[string]string{"Replace": {file: mutant}})
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{mutant: []byte(content), overlay: raw} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-vet=off", "-count=1", "-run", "^TestAgreesWithNaive$", "-overlay", overlay, ".")
	cmd.Env = append(os.Environ(), "TULLE_MODELS=200")
	b, err := cmd.CombinedOutput()
	return string(b), err != nil
}
