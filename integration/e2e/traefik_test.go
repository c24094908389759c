package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/integration/images"
)

const stockTraefikImage = "example.com/traefik"

// stockTraefik lets stock Traefik carry the traffic. It stays, so that uninstalling takes it away, too.
func stockTraefik(t *testing.T, e *env) {
	ns := e.namespace(t, "e2e-traefik", `tulle.dev/validate: "off"`)
	for name, version := range map[string]string{"web": "root", "web-v1": "v1", "web-v2": "v2"} {
		e.apply(t, ns, file(t, "backend.yaml", "$NAME", name, "$REPLICAS", "2", "$VERSION", version))
	}
	e.rollout(t, ns, "deployment/web", "deployment/web-v1", "deployment/web-v2")
	tag := e.loadTraefik(t)
	args := append([]string{"install", "--set", "proxy.engine=traefik"}, e.release.values()...)
	args = append(args, "--set", "proxy.traefik.image.repository="+stockTraefikImage, "--set-string", "proxy.traefik.image.tag="+tag)
	out, err := e.tulle(t, e.release, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(out)
	e.eventually(t, "tulle check", func() error {
		_, err := e.tulle(t, e.release, "check")
		return err
	})
	s := &traefikSuite{e: e, ns: ns}
	t.Run("protocols", s.protocols)
	t.Run("90/10", s.split)
	t.Run("by header", s.byHeader)
	t.Run("an enforced target", s.enforced)
	t.Run("a broken object", s.broken)
	t.Run("status", func(t *testing.T) {
		out, err := e.tulle(t, e.release, "status")
		if err != nil || !strings.Contains(out, "traefik") || !strings.Contains(out, "access control: ") {
			t.Errorf("the status doesn't name the engine and its limits: %v\n%s", err, out)
		}
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
	archive := filepath.Join(t.TempDir(), "traefik.tar")
	image := images.Image{Ref: stockTraefikImage + ":" + tag, Entrypoint: "/traefik", Files: map[string]string{"/traefik": program}}
	if err := images.Write(archive, image); err != nil {
		t.Fatal(err)
	}
	e.loadImage(t, archive)
	return tag
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

// enforced: a listed source may do what the target lists, nobody may do anything else, and what Traefik can't enforce is
// closed and told.
func (s *traefikSuite) enforced(t *testing.T) {
	ns := s.e.namespace(t, "e2e-traefik-guarded", "tulle.dev/access: enforce")
	s.e.apply(t, ns, file(t, "backend.yaml", "$NAME", "web", "$REPLICAS", "1", "$VERSION", "guarded"))
	s.e.apply(t, ns, file(t, "guarded.yaml", "$CLIENTS", clientNamespace))
	s.e.rollout(t, ns, "deployment/web")
	get := func(c client, want int, args ...string) func() error {
		return func() error {
			got := c.call(t, append(append([]string{"get", "-n", "5"}, args...), "http://web."+ns+".mesh/")...)
			if got.ByStatus[want] != 5 {
				return fmt.Errorf("5 calls from %s: %v %v, want %d", c.node, got.ByStatus, got.Errors, want)
			}
			return nil
		}
	}
	for _, c := range s.e.clients {
		s.e.inARow(t, "a reader reads", 3, settleTimeout, get(c, http.StatusOK))
		if err := get(c, http.StatusForbidden, "-method", "POST")(); err != nil {
			t.Errorf("a reader writes: %v", err)
		}
	}
	for _, c := range s.e.clientsOf(t, s.ns, "app=web") {
		if err := get(c, http.StatusForbidden)(); err != nil {
			t.Errorf("somebody else reads: %v", err)
		}
	}
	for _, protocol := range []string{"tcp", "udp"} {
		port := map[string]string{"tcp": ":9000", "udp": ":9002"}[protocol]
		if got := s.e.clients[0].call(t, protocol, "-n", "2", "-timeout", "1s", "web."+ns+".mesh"+port); got.OK > 0 {
			t.Errorf("%s is open: %d of %d", protocol, got.OK, got.Calls)
		}
	}
	s.e.eventually(t, "an Event says that UDP is closed although the target lists it", func() error {
		out, err := s.e.try(t, "-n", ns, "get", "events", "--field-selector", "reason=NotEnforceable", "-o", "name")
		if err == nil && out == "" {
			err = errors.New("there is none")
		}
		return err
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
