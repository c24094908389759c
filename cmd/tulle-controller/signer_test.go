package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/kube"
	"github.com/tulle-mesh/tulle/internal/push"
)

func completeSigner(t *testing.T, args ...string) (*signer, error) {
	t.Helper()
	s := &signer{process: process{component: "identity", stderr: io.Discard}}
	parse(t, s.addFlags, args)
	return s, s.complete()
}

func TestBadFlagsOfTheSignerAreNamed(t *testing.T) {
	for _, arg := range []string{
		"--trust-domain=a b", "--svid-life=1ms", "--svid-life=25h", "--identity-spread=1ms", "--identity-root-life=7h", "--log-level=loud", "--log-format=xml",
	} {
		name := strings.TrimPrefix(arg[:strings.Index(arg, "=")], "--")
		if _, err := completeSigner(t, arg); err == nil || !strings.Contains(err.Error(), "--"+name) {
			t.Errorf("%s: %v", arg, err)
		}
	}
	s, err := completeSigner(t, "--identity-address=203.0.113.1:1")
	if err != nil {
		t.Fatal(err)
	}
	s.metricsAddress, s.healthAddress = "127.0.0.1:0", "127.0.0.1:0"
	if _, err := s.listen(t.Context()); err == nil || !strings.Contains(err.Error(), "--identity-address") {
		t.Errorf("an address that can't be opened: %v", err)
	}
}

func TestHelpNamesTheSigner(t *testing.T) {
	var out bytes.Buffer
	if err := newRoot([]string{"identity", "--help"}, &out, &out).ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "--identity-root-life") || strings.Contains(out.String(), "--zones") {
		t.Error(out.String())
	}
}

// signing is a signer that runs.
type signing struct {
	*signer
	*signerDoors
}

func startSigner(t *testing.T, client *fake.Clientset, name string) signing {
	t.Helper()
	s, err := completeSigner(t, "--pod-name="+name, "--identity-address=127.0.0.1:0", "--metrics-address=127.0.0.1:0", "--health-address=127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.log = slog.New(slog.DiscardHandler)
	s.clients = &kube.Clients{Read: client}
	d, err := s.listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.wire()
	running(t, func(ctx context.Context) error { return s.serve(ctx, d) })
	return signing{s, d}
}

// client is how a proxy's pod asks a signer, by the roots that it has mounted.
func (s signing) client(t *testing.T, client *fake.Clientset, token string) *push.Signer {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	out := push.NewSigner(push.SignerConfig{Addr: s.sign.Addr().String(), TokenFile: file, TLS: func() (*tls.Config, error) {
		m, err := client.CoreV1().ConfigMaps("tulle-system").Get(t.Context(), kube.TrustConfigMap, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		td, err := identity.ParseTrustDomain("cluster.local")
		if err != nil {
			return nil, err
		}
		b, err := identity.ParseRoots(td, []byte(m.Data["ca.crt"]))
		if err != nil {
			return nil, err
		}
		id, err := identity.Account(td, "tulle-system", kube.IdentityAccount)
		if err != nil {
			return nil, err
		}
		return identity.Expect(b, id), nil
	}})
	t.Cleanup(out.Close)
	return out
}

// certifies says that what a signer signs for a proxy's node is good by what the controllers tell proxies to trust.
func certifies(t *testing.T, client *fake.Clientset, proxies []*seen) {
	t.Helper()
	_, csr, err := identity.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"i-1", "i-2"} {
		s, proxy := startSigner(t, client, name), proxies[i]
		eventually(t, "ready", func() bool {
			code, _ := get(t, "http://"+s.health.Addr().String()+"/readyz")
			return code == http.StatusOK
		})
		asks := s.client(t, client, "p1@tulle-identity")
		chain, err := asks.Sign(t.Context(), "tulle-system", "tulle-proxy", csr)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the trust bundle", func() bool {
			proxy.mu.Lock()
			defer proxy.mu.Unlock()
			return proxy.bundle != nil && slices.Equal(proxy.nodes["n1"].GetReady(), []string{"10.0.0.1"})
		})
		b, err := identity.ParseBundle(proxy.bundle.GetTrustDomain(), proxy.bundle.GetRoots())
		if err != nil {
			t.Fatal(err)
		}
		if peer, err := identity.ParseAndVerify(chain, b, time.Now()); err != nil || peer.ID.String() != "spiffe://cluster.local/ns/tulle-system/sa/tulle-proxy" || peer.Node != "n1" {
			t.Errorf("certified %+v, %v", peer, err)
		}
		if _, err := asks.Sign(t.Context(), "shop", "web", csr); !errors.Is(err, push.ErrDenied) {
			t.Errorf("an identity that runs nowhere: %v", err)
		}
		if _, err := s.client(t, client, "p1@tulle").Sign(t.Context(), "tulle-system", "tulle-proxy", csr); status.Code(errors.Unwrap(err)) != codes.Unauthenticated {
			t.Errorf("by a token for the controllers: %v", err)
		}
		signerMetricsAreDocumented(t, s)
	}
}

func signerMetricsAreDocumented(t *testing.T, s signing) {
	t.Helper()
	documented, served := documentedMetrics(t, "\n# Metrics of tulle-identity"), servedMetrics(t, s.doors.metrics)
	documented["tulle_build_info"] = true // by the controllers
	if !maps.Equal(documented, served) {
		t.Errorf("documented: %v\nserved: %v", documented, served)
	}
}

// A signer that may not read the CA says so, and gets no requests.
func TestSignerThatHasNoCAIsNotReady(t *testing.T) {
	client := api()
	client.PrependReactor("get", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("no rights to get secrets")
	})
	s := startSigner(t, client, "i-1")
	eventually(t, "the reason", func() bool {
		code, text := get(t, "http://"+s.health.Addr().String()+"/readyz")
		return code == http.StatusServiceUnavailable && strings.Contains(text, "no rights to get secrets")
	})
	if code, _ := get(t, "http://"+s.health.Addr().String()+"/healthz"); code != http.StatusOK {
		t.Errorf("healthz answers %d", code)
	}
}

// A signer looks at pods, and at nothing else of the cluster; a controller has nothing to do with the CA's Secret.
func TestWhoReadsWhat(t *testing.T) {
	verbs := func(client *fake.Clientset) map[string]bool {
		out := map[string]bool{}
		for _, a := range client.Actions() {
			what := a.GetVerb() + " " + a.GetResource().Resource
			switch one := a.(type) {
			case clienttesting.GetAction: // a patch, too
				what += " " + one.GetName()
			case clienttesting.CreateAction:
				if o, ok := one.GetObject().(metav1.Object); ok && o.GetName() != "" {
					what += " " + o.GetName()
				}
			}
			out[what] = true
		}
		return out
	}
	client := api()
	s := startSigner(t, client, "i-1")
	eventually(t, "ready", func() bool { return s.ready() == nil })
	for what := range verbs(client) {
		if !slices.Contains([]string{
			"list pods", "watch pods", "get secrets tulle-identity-ca", "patch secrets tulle-identity-ca", "get configmaps tulle-trust", "patch configmaps tulle-trust",
		}, what) {
			t.Errorf("the signer: %s", what)
		}
	}
	client = api()
	if _, err := client.CoreV1().Pods("tulle-system").Create(t.Context(), pod("c-1", "controller", "10.0.0.8"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c := start(t, client, "c-1")
	eventually(t, "ready", func() bool { return c.ready() == nil })
	eventually(t, "a CA of its own", func() bool { return verbs(client)["patch secrets tulle-controller-tls"] })
	for what := range verbs(client) {
		if strings.Contains(what, kube.IdentitySecret) || strings.Contains(what, " secrets") && !strings.HasSuffix(what, " tulle-controller-tls") {
			t.Errorf("the controller: %s", what)
		}
	}
}
