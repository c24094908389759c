package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// lookups asks for names of the cluster all the time, from before install to after uninstall: none may be lost.
func lookups(t *testing.T, e *env) {
	for i, c := range e.clients {
		e.lookups = append(e.lookups, c.load(e.t, fmt.Sprintf("lookups%d", i), "-rate", "25", "-timeout", "4s",
			"dns://kubernetes.default.svc.cluster.local.", "dns://kube-dns.kube-system.svc.cluster.local."))
	}
}

func lookupsEnd(t *testing.T, e *env) {
	for _, l := range e.lookups {
		s := l.stop(t)
		t.Logf("from %s: %d lookups, %d failed, longest gap %.0f ms", l.client.node, s.Calls, s.Failed, s.GapMS)
		if s.Calls == 0 || s.Failed > 0 {
			t.Errorf("%d of %d lookups of the cluster's names failed: %v", s.Failed, s.Calls, s.Errors)
		}
	}
}

// customStubDomain: where the Corefile imports what users put into a ConfigMap of their own, the block is there, and the
// Corefile, which an add-on manager may put back at any time, is left alone.
func customStubDomain(t *testing.T, e *env) {
	e.needEmbedded(t)
	if text := e.corefile(t); !strings.Contains(text, "import /etc/coredns/custom/*.server") || strings.Contains(text, "tulle") {
		t.Errorf("the Corefile is\n%s", text)
	}
	custom := func() string {
		return e.run(t, "-n", "kube-system", "get", "configmap", "coredns-custom", "--ignore-not-found", "-o", "jsonpath={.data}")
	}
	with := custom()
	if !strings.Contains(with, "mesh:53 {") {
		t.Errorf("ConfigMap coredns-custom has %s", with)
	}
	e.run(t, "-n", "kube-system", "delete", "configmap", "coredns-custom")
	e.eventually(t, "the block again", func() error { return sameText(with, custom()) })
}

// stubDomain: what the mesh does to the cluster's DNS, and what it leaves alone.
func stubDomain(t *testing.T, e *env) {
	e.needEmbedded(t)
	with := e.corefile(t)
	if !strings.Contains(with, "BEGIN tulle") {
		t.Fatalf("no block in the Corefile: %s", with)
	}
	c := e.clients[0]
	canary := func() error { return c.allOK(t, "get", "http://web.e2e-dns.mesh/") }
	ns := e.namespace(t, "e2e-dns")
	e.apply(t, ns, file(t, "backend.yaml", "$NAME", "web", "$REPLICAS", "1", "$VERSION", "v1"))
	e.rollout(t, ns, "deployment/web")
	e.inARow(t, "the mesh name", 3, settleTimeout, canary)
	t.Run("a revert by hand heals", func(t *testing.T) {
		e.setCorefile(t, withoutBlock(t, with))
		e.eventually(t, "the block again", func() error { return sameText(with, e.corefile(t)) })
		e.inARow(t, "the mesh name", 3, rolloutTimeout, canary)
	})
	t.Run("somebody else's edit stays", func(t *testing.T) {
		e.setCorefile(t, "# a note\n"+withoutBlock(t, with))
		e.eventually(t, "the block and the note", func() error { return sameText("# a note\n"+with, e.corefile(t)) })
		e.setCorefile(t, with)
	})
	t.Run("another one keeps it when one ends", func(t *testing.T) {
		e.run(t, "-n", meshNamespace, "delete", "pod", "-l", "app.kubernetes.io/component=dns", "--wait=false")
		e.setCorefile(t, withoutBlock(t, with))
		e.inARow(t, "the block again", 1, rolloutTimeout, func() error { return sameText(with, e.corefile(t)) })
		e.rollout(t, meshNamespace, "deployment/tulle-dns")
	})
	t.Run("who may do what", func(t *testing.T) { dnsRights(t, e) })
	t.Run("a bad neighbour block", func(t *testing.T) { badNeighbour(t, e, with) })
	t.Run("the namespace hijack", func(t *testing.T) {
		err := e.tryApply(t, "default", "{apiVersion: v1, kind: Namespace, metadata: {name: mesh}}")
		if err == nil {
			e.run(t, "delete", "namespace", "mesh")
			t.Error("a namespace named like the zone was accepted")
		}
	})
	t.Run("bypass", func(t *testing.T) {
		plain := e.run(t, "-n", ns, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
		mesh := c.resolve(t, "web.e2e-dns.mesh").Answers
		for _, step := range []struct {
			arg  string
			want []string
		}{{"on", []string{plain}}, {"off", mesh}} {
			if _, err := e.tulle(t, e.release, "dns", "bypass", step.arg); err != nil {
				t.Fatal(err)
			}
			e.inARow(t, "bypass "+step.arg, 3, settleTimeout, func() error {
				if got := c.resolve(t, "web.e2e-dns.mesh").Answers; fmt.Sprint(got) != fmt.Sprint(step.want) {
					return fmt.Errorf("the mesh name is %v, want %v", got, step.want)
				}
				return nil
			})
		}
	})
}

// dnsRights: the controllers can't change how the cluster resolves names, and what does can't be a controller.
func dnsRights(t *testing.T, e *env) {
	account := func(name string) string { return "--as=system:serviceaccount:" + meshNamespace + ":" + name }
	for _, c := range []struct{ who, namespace, verb, what, want string }{
		{"tulle-dns", "kube-system", "update", "configmaps/coredns", "yes"},
		{"tulle-controller", "kube-system", "update", "configmaps/coredns", "no"},
		{"tulle-controller", "kube-system", "get", "configmaps/coredns", "no"},
		{"tulle-controller", meshNamespace, "create", "pods", "no"},
		{"tulle-controller", meshNamespace, "list", "configmaps/tulle-dns", "yes"},
		{"tulle-controller", meshNamespace, "patch", "configmaps/tulle-dns", "no"},
		{"tulle-dns", meshNamespace, "patch", "configmaps/tulle-dns", "yes"},
		{"tulle-dns", meshNamespace, "patch", "configmaps/tulle-status", "no"},
		{"tulle-dns", meshNamespace, "get", "secrets/tulle-controller-tls", "no"},
		{"tulle-dns", meshNamespace, "create", "pods", "no"},
		{"tulle-dns", meshNamespace, "create", "pods/tulle-dns-trial", "yes"},
		{"tulle-dns", "default", "list", "pods", "no"},
	} {
		// It fails, besides, if the answer is no.
		if out, err := e.try(t, account(c.who), "auth", "can-i", c.verb, c.what, "--namespace="+c.namespace); strings.TrimSpace(out) != c.want {
			t.Errorf("may %s %s %s in %q: %s, want %s (%v)", c.who, c.verb, c.what, c.namespace, out, c.want, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), execTimeout)
	defer cancel()
	_, err := e.kubectl.Apply(ctx, `{apiVersion: v1, kind: Pod, metadata: {name: tulle-dns-trial, labels: {app.kubernetes.io/component: dns-trial}}, spec: {
serviceAccountName: tulle-controller, securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}},
containers: [{name: dns, image: example.com/e2e, securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}]}}`,
		account("tulle-dns"), "-n", meshNamespace, "apply", "--server-side", "-f", "-")
	if err == nil || !strings.Contains(err.Error(), "has the account default") {
		t.Errorf("the DNS' keeper makes a pod that is a controller: %v", err)
	}
}

// badNeighbour: somebody else breaks their part of the file. CoreDNS keeps what it had, and so do the mesh's names; once
// it is mended all is as before.
func badNeighbour(t *testing.T, e *env, with string) {
	failed := func() float64 {
		n := 0.0
		for _, p := range e.pods(t, "kube-system", "k8s-app=kube-dns") {
			n += e.metrics(t, p, 9153).sum("coredns_reload_failed_total", nil)
		}
		return n
	}
	before := failed()
	e.setCorefile(t, strings.Replace(with, "    errors\n", "    errors\n    nosuchplugin\n", 1))
	e.inARow(t, "a reload that fails", 1, rolloutTimeout, func() error {
		if n := failed(); n == before {
			return fmt.Errorf("%v failed reloads", n)
		}
		return nil
	})
	for _, c := range e.clients {
		if err := c.allOK(t, "get", "-n", "20", "http://web.e2e-dns.mesh/"); err != nil {
			t.Error(err)
		}
	}
	e.setCorefile(t, with)
	e.inARow(t, "the Corefile that works", 3, settleTimeout, func() error { return sameText(with, e.corefile(t)) })
}

func sameText(want, got string) error {
	if want != got {
		return fmt.Errorf("want\n%s\nhave\n%s", want, got)
	}
	return nil
}

// withoutBlock is the Corefile as somebody would write it who puts back a copy from before.
func withoutBlock(t *testing.T, corefile string) string {
	t.Helper()
	begin := strings.Index(corefile, "# BEGIN tulle")
	_, after, found := strings.Cut(corefile[max(begin, 0):], "# END tulle")
	if begin < 0 || !found {
		t.Fatalf("no block in %s", corefile)
	}
	_, after, _ = strings.Cut(after, "\n")
	return corefile[:begin] + after
}

func (e *env) setCorefile(t *testing.T, corefile string) {
	t.Helper()
	indented := "    " + strings.ReplaceAll(corefile, "\n", "\n    ")
	e.apply(t, "kube-system", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: coredns}\ndata:\n  Corefile: |\n"+indented+"\n")
}
