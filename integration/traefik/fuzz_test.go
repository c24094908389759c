package traefik_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"regexp/syntax"
	"strings"
	"testing"

	"github.com/traefik/traefik/v2/pkg/middlewares/requestdecorator"
	"github.com/traefik/traefik/v2/pkg/rules"

	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/smi"
	"github.com/tulle-mesh/tulle/internal/topology"
	"github.com/tulle-mesh/tulle/internal/traefik"
)

// FuzzRule: whatever users write into a match, the rule of the router is one that Traefik compiles, it is an "and" of the
// matchers that the match has and of nothing else, and it fits the requests that the match fits.
func FuzzRule(f *testing.F) {
	for _, s := range []string{
		"/a", "/a(`) || PathPrefix(`/)", `/(") || PathPrefix("/)`, "/a) || Host(`x`", `/\{a\}}{b`, "/[{]", "/a{2,3}", "a*", "", "|", "||", "/a||/b",
		"`", "\"", "\\`", "\r\n", "\x00", "\xff", "/ä", "{", "}", "{x:.*}", `\Q/a`, `\\Q`, "(?i)/x", "$", "^/$", "(?P<v0>/a)",
	} {
		f.Add(s, s, "X-A", s, "/a", "a")
		f.Add("/a", "GET", "x-a", s, "/a", s)
		f.Add(s, "GET", "host", s, s, s)
	}
	f.Fuzz(func(t *testing.T, path, method, header, value, sentPath, sentValue string) {
		match := smi.HTTPMatch{Name: "fuzz", PathRegex: path, Methods: []string{method}, Headers: []smi.HeaderMatch{{Name: header, ValueRegex: value}}}
		if !usable(match) || len(path)+len(value) > 4096 {
			t.Skip()
		}
		rule, ok := ruleOf(t, match)
		if !ok {
			t.Skip() // not rendered, and said so
		}
		muxer := compile(t, rule)
		checkTree(t, rule, match)
		r, ok := request(method, sentPath, header, sentValue)
		if !ok {
			return
		}
		w := httptest.NewRecorder()
		requestdecorator.New(nil).ServeHTTP(w, r, muxer.ServeHTTP)
		if got, want := w.Code == http.StatusTeapot, fits(match, r); got != want {
			t.Errorf("%+v on %s %s %q: got %v, the rule is %s", match, r.Method, r.URL.Path, r.Header, got, rule)
		}
	})
}

// usable says whether the mesh takes a match at all: what it doesn't take never gets here.
func usable(m smi.HTTPMatch) bool {
	if m.Methods[0] == "" || m.Methods[0] != strings.ToUpper(m.Methods[0]) || !token.MatchString(m.Methods[0]) || !token.MatchString(m.Headers[0].Name) {
		return false
	}
	for _, expr := range []string{m.PathRegex, m.Headers[0].ValueRegex} {
		if _, err := regexp.Compile(expr); err != nil {
			return false
		}
	}
	return true
}

// token is what a method or a header's name may be (RFC 9110, 5.6.2): backticks and quotes among others.
var token = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

// ruleOf renders a split with one match.
func ruleOf(t *testing.T, m smi.HTTPMatch) (string, bool) {
	t.Helper()
	name := topology.Name{Namespace: "shop", Name: "web"}
	own := topology.Backend{Service: name, Port: 80, Weight: 1, Scheme: topology.SchemeHTTP}
	topo := topology.Topology{Services: []topology.Service{{Name: name, Dedicated: true, Ports: []topology.Port{{
		Number: 80, Protocol: topology.HTTP, Endpoints: []topology.Endpoint{{Address: netip.MustParseAddr("127.0.0.1"), Port: 80}},
		Routes: []topology.Route{{Matches: []smi.HTTPMatch{m}, Split: &name, Backends: []topology.Backend{own}}, {Backends: []topology.Backend{own}}},
	}}}}}
	assigned, _ := shadow.Offline(topo, shadow.Range{First: 20000, Last: 20000})
	config, problems := traefik.Render(traefik.Config{Zones: []string{"mesh"}}, topo, assigned)
	router := config.HTTP.Routers["shop.web.80-0-0"]
	if router == nil {
		if _, never := fitsNever(m); !never && len(problems) == 0 {
			t.Errorf("%+v is not rendered, and nobody was told", m)
		}
		return "", false
	}
	if len(config.HTTP.Routers) != 2 {
		t.Errorf("%d routers", len(config.HTTP.Routers))
	}
	return router.Rule, true
}

// fitsNever says whether no path that begins with a slash fits, as far as a few tries can tell.
func fitsNever(m smi.HTTPMatch) (string, bool) {
	re := regexp.MustCompile("^(?:" + closed(m.PathRegex) + ")")
	for _, path := range []string{"/", "/a", "//"} {
		if re.MatchString(path) {
			return path, false
		}
	}
	return "", true
}

// closed is an expression without a quotation that would swallow the end of a group; `\\Q` begins none.
func closed(expr string) string {
	if !strings.Contains(expr, `\Q`) {
		return expr
	}
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		panic(err) // usable has seen that it compiles
	}
	return re.String()
}

// checkTree parses a rule as Traefik does: it is an "and" of at most one matcher for each part of the match.
func checkTree(t *testing.T, rule string, m smi.HTTPMatch) {
	t.Helper()
	parser, err := rules.NewParser([]string{"PathPrefix", "Method", "HeadersRegexp", "HostRegexp"})
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := parser.Parse(rule)
	if err != nil {
		t.Fatalf("rule %s: %v", rule, err)
	}
	counts := map[string]int{}
	var walk func(*rules.Tree)
	walk = func(n *rules.Tree) {
		if n.Matcher == "and" {
			walk(n.RuleLeft)
			walk(n.RuleRight)
			return
		}
		counts[n.Matcher]++
		if n.Not {
			t.Errorf("rule %s has a not", rule)
		}
		if n.Matcher == "Method" && (len(n.Value) != 1 || n.Value[0] != m.Methods[0]) {
			t.Errorf("rule %s: the method is %q", rule, n.Value)
		}
		if n.Matcher == "HeadersRegexp" && (len(n.Value) != 2 || n.Value[0] != m.Headers[0].Name) {
			t.Errorf("rule %s: the header is %q", rule, n.Value)
		}
	}
	walk(parsed.(rules.TreeBuilder)())
	if counts["or"] > 0 || counts["PathPrefix"] > 1 || counts["Method"] != 1 || counts["HeadersRegexp"]+counts["HostRegexp"] != 1 {
		t.Errorf("rule %s of %+v has %v", rule, m, counts)
	}
}

func request(method, path, header, value string) (*http.Request, bool) {
	if strings.ContainsAny(value, "\r\n\x00") || strings.ContainsAny(path, "\r\n") {
		return nil, false
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Method, r.URL.Path = method, "/"+path
	if strings.EqualFold(header, "host") {
		if value == "" || strings.Contains(value, ":") {
			return nil, false // Traefik doesn't see the port; docs/design/engines.md
		}
		r.Host = value
	} else {
		r.Header = http.Header{http.CanonicalHeaderKey(header): {"other", value}}
	}
	return r, true
}

// fits is what the mesh's own proxy says.
func fits(m smi.HTTPMatch, r *http.Request) bool {
	path := m.PathRegex == "" || regexp.MustCompile("^(?:"+closed(m.PathRegex)+")").MatchString(r.URL.Path)
	value := regexp.MustCompile("^(?:" + closed(m.Headers[0].ValueRegex) + ")$")
	values := r.Header[http.CanonicalHeaderKey(m.Headers[0].Name)]
	if strings.EqualFold(m.Headers[0].Name, "host") {
		values = []string{r.Host}
	}
	for _, v := range values {
		if value.MatchString(v) {
			return path
		}
	}
	return false
}
