// Package layers holds the test that keeps imports going downwards: ARCHITECTURE's table as code.
package layers

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/tulle-mesh/tulle/"

// allowed lists, for every package, the packages of this module that it may import. A package that is not listed
// fails the test: decide where it stands before it exists.
var allowed = map[string][]string{
	"api/config/v1":                    {},
	"manifests":                        {},
	"internal/version":                 {},
	"internal/layers":                  {},
	"internal/problem":                 {},
	"internal/flagenv":                 {},
	"internal/smi":                     {"internal/problem"},
	"internal/breaker":                 {},
	"internal/topology":                {"internal/breaker", "internal/problem", "internal/smi"},
	"internal/access":                  {"api/config/v1"},
	"internal/observed":                {"internal/access"},
	"internal/why":                     {"api/config/v1", "internal/access", "internal/problem", "internal/proxy/route", "internal/proxy/upstream", "internal/proxyconfig", "internal/shadow", "internal/topology"},
	"internal/bypass":                  {"internal/problem", "internal/topology"},
	"internal/shadow":                  {"internal/problem", "internal/topology"},
	"internal/proxyconfig":             {"api/config/v1", "internal/shadow", "internal/smi", "internal/topology"},
	"internal/traefik":                 {"internal/breaker", "internal/problem", "internal/shadow", "internal/smi", "internal/topology"},
	"internal/corefile":                {},
	"internal/status":                  {"internal/problem"},
	"internal/identity":                {},
	"internal/holder":                  {},
	"internal/images":                  {},
	"internal/push":                    {"api/config/v1"},
	"internal/proxy":                   {"api/config/v1", "internal/access", "internal/identity", "internal/observed", "internal/proxy/balance", "internal/proxy/drain", "internal/proxy/exchange", "internal/proxy/http1", "internal/proxy/http2", "internal/proxy/meter", "internal/proxy/policy", "internal/proxy/refusal", "internal/proxy/route", "internal/proxy/share", "internal/proxy/tcp", "internal/proxy/tunnel", "internal/proxy/udp", "internal/proxy/upstream"},
	"internal/proxy/balance":           {},
	"internal/proxy/drain":             {},
	"internal/proxy/queue":             {},
	"internal/proxy/turn":              {},
	"internal/proxy/refusal":           {},
	"internal/proxy/share":             {"internal/proxy/turn"},
	"internal/proxy/meter":             {"internal/proxy/refusal"},
	"internal/proxy/socket":            {},
	"internal/proxy/socket/sockettest": {},
	"internal/proxy/upstream":          {"api/config/v1", "internal/proxy/balance", "internal/proxy/queue", "internal/proxy/socket"},
	"internal/proxy/route":             {"api/config/v1", "internal/breaker", "internal/proxy/balance", "internal/proxy/refusal", "internal/proxy/share", "internal/proxy/upstream"},
	"internal/proxy/exchange":          {"internal/access", "internal/breaker", "internal/proxy/balance", "internal/proxy/meter", "internal/proxy/policy", "internal/proxy/refusal", "internal/proxy/route", "internal/proxy/share", "internal/proxy/upstream"},
	"internal/proxy/http1":             {"api/config/v1", "internal/proxy/drain", "internal/proxy/exchange", "internal/proxy/meter", "internal/proxy/policy", "internal/proxy/refusal", "internal/proxy/route", "internal/proxy/share", "internal/proxy/socket", "internal/proxy/upstream"},
	"internal/proxy/http2":             {"api/config/v1", "internal/proxy/drain", "internal/proxy/exchange", "internal/proxy/policy", "internal/proxy/refusal", "internal/proxy/route", "internal/proxy/share", "internal/proxy/upstream"},
	"internal/proxy/tcp":               {"internal/proxy/drain", "internal/proxy/meter", "internal/proxy/policy", "internal/proxy/refusal", "internal/proxy/route", "internal/proxy/upstream"},
	"internal/proxy/udp":               {"internal/proxy/drain", "internal/proxy/meter", "internal/proxy/policy", "internal/proxy/refusal", "internal/proxy/route", "internal/proxy/upstream"},
	"internal/proxy/policy":            {"api/config/v1", "internal/access", "internal/observed", "internal/proxy/meter", "internal/proxy/refusal", "internal/proxy/route", "internal/proxy/upstream"},
	"internal/proxy/tunnel":            {"internal/identity", "internal/proxy/queue"},
	"internal/firsthop":                {},
	"internal/dns":                     {"api/config/v1", "internal/firsthop"},
	"internal/controller":              {"api/config/v1", "internal/bypass", "internal/problem", "internal/proxyconfig", "internal/shadow", "internal/status", "internal/topology"},
	"internal/webhook":                 {"internal/problem", "internal/smi"},
	"internal/kube":                    {"api/config/v1", "internal/bypass", "internal/controller", "internal/corefile", "internal/identity", "internal/problem", "internal/push", "internal/shadow", "internal/smi", "internal/status"},
	"internal/files":                   {"internal/controller", "internal/problem", "internal/shadow", "internal/smi", "internal/topology"},
	"internal/bugreport":               {"internal/check", "internal/install", "internal/version"},
	"internal/fakeapi":                 {},
	"internal/golden":                  {},
	"internal/check":                   {"internal/corefile", "internal/firsthop", "internal/install", "internal/kube", "internal/observed", "internal/problem", "internal/smi", "internal/status", "internal/version"},
	"internal/standalone":              {"api/config/v1", "internal/dns", "internal/files", "internal/observed", "internal/problem", "internal/proxy", "internal/proxyconfig", "internal/shadow", "internal/topology"},
	"internal/install":                 {"internal/corefile", "internal/kube", "internal/observed", "internal/smi", "internal/status", "internal/version", "manifests"},
	"cmd/tulle":                        anything,
	"cmd/tulle-controller":             anything,
	"cmd/tulle-proxy":                  anything,

	"internal/access/accesstest": {"api/config/v1"},
}

// anything is for the commands, which wire everything.
var anything = []string{"*"}

// pure packages are functions of their arguments: no I/O, clock, logger or client.
var pure = []string{"internal/smi", "internal/topology", "internal/proxyconfig", "internal/traefik", "internal/shadow", "internal/corefile", "internal/problem", "internal/access", "internal/bypass", "internal/breaker", "internal/observed"}

// impure are what a pure package may not import; a trailing slash means everything below, too.
var impure = []string{"os", "os/", "net", "net/http", "log", "log/", "context", "math/rand", "math/rand/", "crypto/rand", "k8s.io/client-go/", "google.golang.org/grpc", "google.golang.org/grpc/"}

// heavy packages may be imported by one place only, so that what needs them is plain to see.
var heavy = map[string][]string{
	"k8s.io/client-go/":              {"internal/bugreport", "internal/check", "internal/kube", "internal/install", "cmd/tulle", "cmd/tulle-controller"},
	"github.com/coredns/coredns/":    {"internal/dns"},
	"github.com/coredns/caddy/":      {"internal/corefile", "internal/dns"},
	"helm.sh/helm/":                  {"internal/install"},
	"github.com/envoyproxy/":         {"internal/push"},
	"github.com/google/go-container": {"internal/images"},
	"github.com/traefik/traefik/v2/": {"internal/traefik"},
}

// dataPlane is what carries traffic. It knows its config and sockets, never Kubernetes, neither directly nor through
// another package.
var dataPlane = []string{"cmd/tulle-proxy", "internal/proxy", "internal/dns", "internal/firsthop", "internal/holder", "internal/push", "api/config/v1"}

type listed struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func TestImportsGoDown(t *testing.T) {
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		if strings.HasPrefix(name, "integration/") || !strings.HasPrefix(p.ImportPath, module) {
			continue
		}
		edges, ok := allowed[name]
		if !ok {
			t.Errorf("%s is not listed: say in layers_test.go what it may import", name)
			continue
		}
		for _, i := range p.Imports {
			if own, is := strings.CutPrefix(i, module); is && !slices.Contains(edges, own) && !slices.Equal(edges, anything) {
				t.Errorf("%s imports %s, which is not below it", name, own)
			}
			if strings.HasPrefix(i, module+"integration/") {
				t.Errorf("%s imports %s: the product doesn't know its tests", name, i)
			}
			for prefix, homes := range heavy {
				if strings.HasPrefix(i, prefix) && !slices.Contains(homes, name) {
					t.Errorf("%s imports %s, which only %v may", name, i, homes)
				}
			}
			if slices.Contains(pure, name) && slices.ContainsFunc(impure, func(s string) bool { return i == s || strings.HasSuffix(s, "/") && strings.HasPrefix(i, s) }) {
				t.Errorf("%s is pure and imports %s", name, i)
			}
		}
	}
}

// The table says what is, not what might have been: an edge that nothing uses any more would hide the next one.
func TestTableIsTight(t *testing.T) {
	imports := map[string][]string{}
	for _, p := range list(t) {
		imports[p.ImportPath] = p.Imports
	}
	for name, edges := range allowed {
		used, exists := imports[module+name]
		if !exists {
			t.Errorf("%s is listed and does not exist", name)
		}
		for _, e := range edges {
			if exists && e != "*" && !slices.Contains(used, module+e) {
				t.Errorf("%s may import %s and does not", name, e)
			}
		}
	}
}

func TestDataPlaneKnowsNoKubernetes(t *testing.T) {
	for _, p := range list(t) {
		if !slices.Contains(dataPlane, strings.TrimPrefix(p.ImportPath, module)) {
			continue
		}
		for _, d := range p.Deps {
			if strings.HasPrefix(d, "k8s.io/") || strings.HasPrefix(d, "sigs.k8s.io/") {
				t.Errorf("%s needs %s", p.ImportPath, d)
			}
		}
	}
}

func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,Deps", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("go list printed %v", err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("go list found %d packages only", len(all))
	}
	return all
}
