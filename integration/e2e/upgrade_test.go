package e2e

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// upgradedServices is how many services are called during upgrades.
const upgradedServices = 40

// upgrades replaces the mesh under load: from the previous commit's build to this one, and back.
func upgrades(t *testing.T, e *env) {
	if _, err := e.try(t, "-n", meshNamespace, "get", "daemonset", "tulle-proxy"); err == nil {
		if _, err := e.tulle(t, e.release, "uninstall", "--force"); err != nil {
			t.Fatal(err)
		}
	}
	now := e.build(t, e.root)
	before := e.previous(t, now)
	t.Logf("from %s to %s and back", before.tag, now.tag)
	e.install(t, before)
	for _, a := range now.archives {
		e.loadImage(t, a)
	}
	ns := e.namespace(t, "e2e-upgrade")
	e.apply(t, ns, file(t, "backend.yaml", "$NAME", "web", "$REPLICAS", "2", "$VERSION", "v1"))
	e.rollout(t, ns, "deployment/web")
	r := &rolloutSuite{e: e}
	var all strings.Builder
	for i := range upgradedServices {
		fmt.Fprintf(&all, "---\n{apiVersion: v1, kind: Service, metadata: {name: s%d}, spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}}\n", i)
		r.urls = append(r.urls, fmt.Sprintf("http://s%d.%s.mesh./", i, ns))
	}
	e.apply(t, ns, all.String())
	r.urls = append(r.urls, e.enforced(t)...)
	for _, c := range e.clients {
		e.inARow(t, "every service from "+c.node, 3, rolloutTimeout, func() error { return c.allOK(t, append([]string{"get"}, r.urls...)...) })
	}
	for _, step := range []struct {
		name string
		to   release
	}{{"upgrade", now}, {"rollback", before}} {
		t.Run(step.name, func(t *testing.T) {
			r.under(t, step.name, 100, func(t *testing.T) { e.upgrade(t, step.to) })
		})
	}
}

// enforced makes services that access control is enforced on, of a pod on any node, and returns their URLs. How calls between
// nodes are proven may differ between two versions; that they pass may not.
func (e *env) enforced(t *testing.T) (urls []string) {
	t.Helper()
	ns := e.namespace(t, "e2e-upgrade-enforced", "tulle.dev/access: enforce")
	e.apply(t, ns, file(t, "backend.yaml", "$NAME", "web", "$REPLICAS", "2", "$VERSION", "v1"))
	e.apply(t, ns, `
{apiVersion: specs.smi-spec.io/v1alpha4, kind: TCPRoute, metadata: {name: all}, spec: {matches: {}}}
---
{apiVersion: access.smi-spec.io/v1alpha3, kind: TrafficTarget, metadata: {name: web}, spec: {destination: {kind: ServiceAccount, name: default}, rules: [{kind: TCPRoute, name: all}], sources: [{kind: ServiceAccount, name: default, namespace: `+clientNamespace+`}]}}`)
	e.rollout(t, ns, "deployment/web")
	for i := range 8 {
		name := fmt.Sprintf("e%d", i)
		e.apply(t, ns, "{apiVersion: v1, kind: Service, metadata: {name: "+name+"}, spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}}")
		urls = append(urls, fmt.Sprintf("http://%s.%s.mesh./", name, ns))
	}
	return urls
}

// upgrade runs a release's own `tulle upgrade`; afterwards nothing but that release runs.
func (e *env) upgrade(t *testing.T, to release) {
	t.Helper()
	out, err := e.tulle(t, to, append([]string{"upgrade"}, to.values()...)...)
	if err != nil {
		t.Error(err)
		return
	}
	t.Log(out)
	e.release = to
	e.eventually(t, "the end of all other pods", func() error {
		images := e.run(t, "-n", meshNamespace, "get", "pods", "-l", "app.kubernetes.io/name=tulle", "-o", `jsonpath={.items[*].spec.containers[*].image}`)
		for image := range strings.FieldsSeq(images) {
			if !strings.HasSuffix(image, ":"+to.tag) {
				return fmt.Errorf("one is of %s, want tag %s", image, to.tag)
			}
		}
		return nil
	})
}

// previous builds the commit before this one, or the one that the environment names. Where there is none (a shallow clone, no repository, a first commit), or
// one of the same programs, it is this build under another tag: roll-outs differ in nothing then but what they start.
func (e *env) previous(t *testing.T, now release) release {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "previous")
	if err := checkout(t.Context(), e.root, cmp.Or(os.Getenv(fromEnv), "HEAD~1"), dir); err != nil {
		t.Logf("there is no previous commit, so this one is upgraded to itself: %v", err)
	} else if r := e.build(t, dir); r.tag != now.tag {
		return r
	}
	now.tagged(t, "previous")
	return now
}

// checkout writes the tree of a commit into a folder; the repository stays as it is.
func checkout(ctx context.Context, repo, commit, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, execTimeout)
	defer cancel()
	// A commit from before the programs has nothing to upgrade from.
	archive := exec.CommandContext(ctx, "git", "-C", repo, "archive", "--output", dir+".tar", commit, "cmd/tulle/upgrade.go", "cmd/tulle-controller", "cmd/tulle-proxy", ".")
	if out, err := archive.CombinedOutput(); err != nil {
		return fmt.Errorf("git archive %s: %w: %s", commit, err, out)
	}
	if out, err := exec.CommandContext(ctx, "tar", "-xf", dir+".tar", "-C", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("unpack %s: %w: %s", commit, err, out)
	}
	return nil
}
