package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/integration/images"
)

const stockTraefikImage = "example.com/traefik"

// stockTraefik lets stock Traefik carry the traffic, and gives it back to the mesh's own proxy.
func stockTraefik(t *testing.T, e *env) {
	ns := e.namespace(t, "e2e-traefik")
	for name, version := range map[string]string{"web": "root", "web-v1": "v1", "web-v2": "v2"} {
		e.apply(t, ns, file(t, "backend.yaml", "$NAME", name, "$REPLICAS", "2", "$VERSION", version))
	}
	e.rollout(t, ns, "deployment/web", "deployment/web-v1", "deployment/web-v2")
	tag := e.loadTraefik(t)
	e.engine(t, "--set", "proxy.engine=traefik", "--set", "proxy.traefik.image.repository="+stockTraefikImage, "--set-string", "proxy.traefik.image.tag="+tag)
	s := &traefikSuite{e: e, ns: ns}
	t.Run("protocols", s.protocols)
	t.Run("90/10", s.split)
	t.Run("by header", s.byHeader)
	t.Run("a broken object", s.broken)
	t.Run("status", func(t *testing.T) {
		out, err := e.tulle(t, e.release, "status")
		if err != nil || !strings.Contains(out, "traefik") || !strings.Contains(out, "access control: ") {
			t.Errorf("the status doesn't name the engine and its limits: %v\n%s", err, out)
		}
	})
	t.Run("back to the own proxy", func(t *testing.T) {
		e.engine(t, "--set", "proxy.engine=tulle") // an upgrade keeps values
		t.Run("protocols", s.protocols)
	})
}

// loadTraefik makes an image of stock Traefik known to every node and returns its tag.
func (e *env) loadTraefik(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*buildTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(e.root, "integration", "stock-traefik.sh"), "v2")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("build stock Traefik: %v", err)
	}
	program := strings.TrimSpace(string(out))
	tag := strings.TrimPrefix(filepath.Base(filepath.Dir(program)), "traefik-")
	archive, err := images.WriteCached(t.TempDir(), images.Image{Ref: stockTraefikImage + ":" + tag, Entrypoint: "/traefik", Files: map[string]string{"/traefik": program}})
	if err != nil {
		t.Fatal(err)
	}
	e.loadImage(t, archive)
	return tag
}

// engine upgrades the mesh to other values and waits until no other proxy is left.
func (e *env) engine(t *testing.T, values ...string) {
	t.Helper()
	out, err := e.tulle(t, e.release, append(append([]string{"upgrade"}, e.release.values()...), values...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(out)
	e.rollout(t, meshNamespace, "daemonset/tulle-proxy")
	e.eventually(t, "tulle check", func() error {
		_, err := e.tulle(t, e.release, "check")
		return err
	})
}

type traefikSuite struct {
	e  *env
	ns string
}

func (s *traefikSuite) protocols(t *testing.T) {
	for name, args := range map[string][]string{
		"http":   {"get", "-n", "20", "-c", "4", "http://web." + s.ns + ".mesh/"},
		"tcp":    {"tcp", "-n", "20", "web." + s.ns + ".mesh:9000"},
		"banner": {"tcp", "-n", "20", "-banner", "web." + s.ns + ".mesh:9001"},
		"udp":    {"udp", "-n", "20", "web." + s.ns + ".mesh:9002"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, c := range s.e.clients {
				s.e.inARow(t, "answers from "+c.node, 3, settleTimeout, func() error { return c.allOK(t, args...) })
			}
		})
	}
}

// split: each backend gets its share, give or take a cycle of the weights.
func (s *traefikSuite) split(t *testing.T) {
	s.e.apply(t, s.ns, file(t, "split.yaml", "$V1", "90", "$V2", "10"))
	c := s.e.clients[0]
	s.e.eventually(t, "the split is 90/10", func() error {
		got := c.call(t, "get", "-n", "600", "http://web."+s.ns+".mesh/")
		if v1, v2 := got.ByVersion["v1"], got.ByVersion["v2"]; v1+v2 != 600 || v2 < 50 || v2 > 70 {
			return fmt.Errorf("600 calls: %v", got.ByVersion)
		}
		return nil
	})
}

func (s *traefikSuite) byHeader(t *testing.T) {
	s.e.apply(t, s.ns, file(t, "split.yaml", "$V1", "1", "$V2", "0"))
	s.e.apply(t, s.ns, file(t, "header-split.yaml"))
	c := s.e.clients[0]
	s.e.eventually(t, "both splits", func() error {
		with := c.call(t, "get", "-n", "50", "-H", "X-Beta: yes", "http://web."+s.ns+".mesh/")
		without := c.call(t, "get", "-n", "50", "-H", "X-Beta: yesterday", "http://web."+s.ns+".mesh/")
		if with.ByVersion["v2"] != 50 || without.ByVersion["v1"] != 50 {
			return fmt.Errorf("with the header %v, without %v", with.ByVersion, without.ByVersion)
		}
		return nil
	})
}

// broken: what makes no sense changes nothing for others. Traefik refuses a whole configuration for one empty element.
func (s *traefikSuite) broken(t *testing.T) {
	s.e.apply(t, s.ns, file(t, "broken.yaml"))
	c := s.e.clients[0]
	// A change after the broken objects comes to effect, so the configuration with them was taken.
	s.e.apply(t, s.ns, file(t, "split.yaml", "$V1", "0", "$V2", "1"))
	s.e.eventually(t, "the change after it", func() error {
		if got := c.call(t, "get", "-n", "50", "http://web."+s.ns+".mesh/"); got.ByVersion["v2"] != 50 {
			return fmt.Errorf("50 calls: %v", got.ByVersion)
		}
		return nil
	})
	s.protocols(t)
}
