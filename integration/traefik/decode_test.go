// Package traefik_test holds what needs Traefik itself: its decoder and rule parser over everything that the mesh
// renders, and a real stock Traefik beside the mesh's own proxy.
package traefik_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	ptypes "github.com/traefik/paerser/types"
	"github.com/traefik/traefik/v2/pkg/config/dynamic"
	httpmuxer "github.com/traefik/traefik/v2/pkg/muxer/http"
	tcpmuxer "github.com/traefik/traefik/v2/pkg/muxer/tcp"
	httpprovider "github.com/traefik/traefik/v2/pkg/provider/http"
	"github.com/traefik/traefik/v2/pkg/safe"
	"github.com/traefik/traefik/v2/pkg/tcp"
	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"
)

// TestEveryRenderingLoads: Traefik's HTTP provider decodes every fixture's rendering, its rule parser compiles every rule,
// and all that a router names exists.
func TestEveryRenderingLoads(t *testing.T) {
	files, err := filepath.Glob("../../internal/traefik/testdata/*.txtar")
	if err != nil || len(files) < 50 {
		t.Fatalf("%d fixtures: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := yaml.YAMLToJSON(part(a, "dynamic.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			var static struct {
				EntryPoints map[string]struct{ Address string }
			}
			if err := yaml.Unmarshal(part(a, "static.yaml"), &static); err != nil {
				t.Fatal(err)
			}
			var names []string
			for name := range static.EntryPoints {
				names = append(names, name)
			}
			check(t, decode(t, raw), names)
		})
	}
}

func part(a *txtar.Archive, name string) []byte {
	for _, f := range a.Files {
		if f.Name == name {
			return f.Data
		}
	}
	return nil
}

// decode is what Traefik makes of an answer of the controller.
func decode(t testing.TB, raw []byte) *dynamic.Configuration {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(raw) }))
	defer server.Close()
	p := &httpprovider.Provider{}
	p.SetDefaults()
	p.Endpoint, p.PollTimeout = server.URL, ptypes.Duration(10*time.Second)
	if err := p.Init(); err != nil {
		t.Fatal(err)
	}
	messages := make(chan dynamic.Message, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	pool := safe.NewPool(ctx)
	defer pool.Stop()
	if err := p.Provide(messages, pool); err != nil {
		t.Fatal(err)
	}
	select {
	case m := <-messages:
		return m.Configuration
	case <-ctx.Done():
		t.Fatalf("Traefik does not take it:\n%s", raw)
		return nil
	}
}

// check compiles the rules and looks every name up.
func check(t testing.TB, c *dynamic.Configuration, entryPoints []string) {
	t.Helper()
	known := func(router string, names []string) {
		for _, name := range names {
			if !slices.Contains(entryPoints, name) {
				t.Errorf("router %s: there is no entry point %s", router, name)
			}
		}
		if len(names) == 0 {
			t.Errorf("router %s is on all entry points", router)
		}
	}
	for name, r := range c.HTTP.Routers {
		known(name, r.EntryPoints)
		if c.HTTP.Services[r.Service] == nil {
			t.Errorf("router %s: there is no service %s", name, r.Service)
		}
		for _, m := range r.Middlewares {
			if c.HTTP.Middlewares[m] == nil {
				t.Errorf("router %s: there is no middleware %s", name, m)
			}
		}
		compile(t, r.Rule)
	}
	for name, s := range c.HTTP.Services {
		if s.LoadBalancer == nil && s.Weighted == nil {
			t.Errorf("service %s is nothing", name)
		}
		if s.Weighted != nil {
			for _, w := range s.Weighted.Services {
				if c.HTTP.Services[w.Name] == nil {
					t.Errorf("service %s: there is no service %s", name, w.Name)
				}
			}
		}
		if s.LoadBalancer != nil && s.LoadBalancer.ServersTransport != "" && c.HTTP.ServersTransports[s.LoadBalancer.ServersTransport] == nil {
			t.Errorf("service %s: there is no transport %s", name, s.LoadBalancer.ServersTransport)
		}
	}
	checkStreams(t, c, known)
}

func checkStreams(t testing.TB, c *dynamic.Configuration, known func(string, []string)) {
	t.Helper()
	for name, r := range c.TCP.Routers {
		known(name, r.EntryPoints)
		if c.TCP.Services[r.Service] == nil {
			t.Errorf("router %s: there is no service %s", name, r.Service)
		}
		m, err := tcpmuxer.NewMuxer()
		if err != nil {
			t.Fatal(err)
		}
		if err := m.AddRoute(r.Rule, 0, tcp.HandlerFunc(func(tcp.WriteCloser) {})); err != nil {
			t.Errorf("rule %s: %v", r.Rule, err)
		}
	}
	for name, r := range c.UDP.Routers {
		known(name, r.EntryPoints)
		if c.UDP.Services[r.Service] == nil {
			t.Errorf("router %s: there is no service %s", name, r.Service)
		}
	}
}

// compile makes a router of one rule.
func compile(t testing.TB, rule string) *httpmuxer.Muxer {
	t.Helper()
	m, err := httpmuxer.NewMuxer()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.AddRoute(rule, 1, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })); err != nil {
		t.Errorf("rule %s: %v", rule, err)
	}
	return m
}
