package e2e

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

// pushed asks a controller for config in ways that a proxy would not.
func pushed(t *testing.T, e *env) {
	p := &pushSuite{e: e, roots: e.meshCA(t)}
	ns := e.namespace(t, "e2e-push")
	for _, name := range []string{"a", "b"} {
		e.apply(t, ns, "{apiVersion: v1, kind: Service, metadata: {name: "+name+"}, spec: {selector: {app: none}, ports: [{name: http, port: 80}]}}")
	}
	t.Run("tokens that are refused", p.tokens)
	t.Run("another node's config", p.otherNode)
	t.Run("a deleted pod", p.deleted)
	t.Run("a resource is refused", p.refusal)
}

type pushSuite struct {
	e     *env
	roots *x509.CertPool
}

// meshCA is what proxies verify controllers by.
func (e *env) meshCA(t *testing.T) *x509.CertPool {
	t.Helper()
	roots := x509.NewCertPool()
	if pem := e.run(t, "-n", meshNamespace, "get", "configmap", "tulle-ca", "-o", `jsonpath={.data.ca\.crt}`); !roots.AppendCertsFromPEM([]byte(pem)) {
		t.Fatalf("ConfigMap tulle-ca holds no certificate: %q", pem)
	}
	return roots
}

// token is what the API server makes for a ServiceAccount; pod may be "".
func (e *env) token(t *testing.T, namespace, account, audience, pod string) string {
	t.Helper()
	args := []string{"-n", namespace, "create", "token", account, "--audience", audience}
	if pod != "" {
		args = append(args, "--bound-object-kind", "Pod", "--bound-object-name", pod)
	}
	return strings.TrimSpace(e.run(t, args...))
}

// open opens a stream to a ready controller that lasts as long as the test.
func (p *pushSuite) open(t *testing.T, token string) *stream {
	t.Helper()
	var controller pod
	p.e.eventually(t, "a ready controller", func() error {
		for _, c := range p.e.pods(t, meshNamespace, "app.kubernetes.io/component=controller") {
			ready, err := p.e.try(t, "-n", meshNamespace, "get", "pod", c.name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
			if err == nil && ready == "True" {
				controller = c
				return nil
			}
		}
		return errors.New("none is")
	})
	s, err := openStream(t.Context(), streamConfig{dial: p.e.dialer(t, controller, pushPort), roots: p.roots, token: token})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// dialer connects to a pod, past all Services.
func (e *env) dialer(t *testing.T, p pod, port int) func(context.Context) (net.Conn, error) {
	t.Helper()
	if e.embedded == nil {
		addr, err := e.forward(t.Context(), p, port)
		if err != nil {
			t.Fatal(err)
		}
		return func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "tcp", addr) }
	}
	addr := net.JoinHostPort(p.ip, fmt.Sprint(port))
	return func(ctx context.Context) (net.Conn, error) { return e.embedded.DialIn(ctx, p.node, addr) }
}

// wantEnd receives what must be the end of the stream.
func wantEnd(t *testing.T, s *stream, code codes.Code, says string) {
	t.Helper()
	resp, err := s.ads.Recv()
	if err == nil {
		t.Fatalf("it was served: %d resources of %s", len(resp.GetResources()), resp.GetTypeUrl())
	}
	if status.Code(err) != code || !strings.Contains(err.Error(), says) {
		t.Errorf("the stream ended with %v, want %v and %q", err, code, says)
	}
}

func (p *pushSuite) tokens(t *testing.T) {
	e := p.e
	proxy := e.proxies(t)[0].name
	controller := e.pods(t, meshNamespace, "app.kubernetes.io/component=controller")[0].name
	for _, c := range []struct{ name, token, says string }{
		{"none", "", "authorization"},
		{"garbage", "abc", "not valid"},
		{"of another account of the mesh", e.token(t, meshNamespace, "tulle-controller", "tulle", controller), "tulle-controller"},
		{"of another namespace's account", e.token(t, clientNamespace, "default", "tulle", e.clients[0].pod), clientNamespace},
		{"for another audience", e.token(t, meshNamespace, "tulle-proxy", "elsewhere", proxy), "not valid"},
		{"for who certifies identities", e.token(t, meshNamespace, "tulle-proxy", "tulle-identity", proxy), "not valid"},
		{"bound to no pod", e.token(t, meshNamespace, "tulle-proxy", "tulle", ""), "not bound to a pod"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := p.open(t, c.token)
			// The refusal may arrive before all is sent.
			if err := s.subscribeAll(); err != nil {
				t.Log(err)
			}
			wantEnd(t, s, codes.Unauthenticated, c.says)
		})
	}
}

// otherNode asks, as the proxy of one node, for what is another one's.
func (p *pushSuite) otherNode(t *testing.T) {
	ps := p.e.proxies(t)
	a, b := ps[0], ps[1]
	token := p.e.token(t, meshNamespace, "tulle-proxy", "tulle", a.name)
	t.Run("by name", func(t *testing.T) {
		s := p.open(t, token)
		if err := s.subscribe(configv1.ProxyType, b.name); err != nil {
			t.Fatal(err)
		}
		wantEnd(t, s, codes.PermissionDenied, b.name)
	})
	t.Run("in its name", func(t *testing.T) {
		s := p.open(t, token)
		s.node = b.name
		if err := s.subscribe(configv1.ProxyType); err != nil {
			t.Fatal(err)
		}
		resp, err := s.ads.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if rs := resp.GetResources(); len(rs) != 1 || rs[0].GetName() != a.name {
			t.Errorf("the proxy %s got %v, want what is its own", a.name, rs)
		}
	})
}

// proxyLike is a pod with the proxies' ServiceAccount, and its token.
func (p *pushSuite) proxyLike(t *testing.T, name string) (token string) {
	t.Helper()
	p.e.apply(t, meshNamespace, file(t, "proxylike.yaml", "$NAME", name))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), execTimeout)
		defer cancel()
		if _, err := p.e.kubectl.Run(ctx, "-n", meshNamespace, "delete", "pod", name, "--ignore-not-found"); err != nil {
			t.Error(err)
		}
	})
	p.e.run(t, "-n", meshNamespace, "wait", "--for=condition=Ready", "pod/"+name, "--timeout="+settleTimeout.String())
	return p.e.token(t, meshNamespace, "tulle-proxy", "tulle", name)
}

func (p *pushSuite) deleted(t *testing.T) {
	const name = "proxy-like-deleted"
	token := p.proxyLike(t, name)
	f := newFakeProxy(t, p.open(t, token), nil)
	p.e.eventually(t, "config", f.complete)
	p.e.run(t, "-n", meshNamespace, "delete", "pod", name)
	p.e.eventually(t, "end of the stream", func() error {
		if err := f.ended(); status.Code(err) != codes.Unauthenticated {
			return fmt.Errorf("it ended with: %w", err)
		}
		return nil
	})
	s := p.open(t, token)
	if err := s.subscribeAll(); err != nil {
		t.Log(err)
	}
	wantEnd(t, s, codes.Unauthenticated, "")
}

// refusal: what one proxy refuses is said on the object and by the commands, and everything else goes on.
func (p *pushSuite) refusal(t *testing.T) {
	const name, reason = "proxy-like-refusing", "made for a test"
	e := p.e
	bad := configv1.Key{Type: configv1.ServiceType, Name: "e2e-push/a"}
	good := configv1.Key{Type: configv1.ServiceType, Name: "e2e-push/b"}
	f := newFakeProxy(t, p.open(t, p.proxyLike(t, name)), map[configv1.Key]string{bad: reason})
	e.eventually(t, "the first config", f.complete)
	if f.version(good) == "" || f.version(bad) != "" {
		t.Fatalf("in use are %q of %s and %q of %s", f.version(good), good, f.version(bad), bad)
	}
	port := func(service, port string) {
		t.Helper()
		e.run(t, "-n", "e2e-push", "patch", "service", service, "--type=json", "-p", `[{"op": "replace", "path": "/spec/ports/0/port", "value": `+port+`}]`)
	}
	t.Run("is reported", func(t *testing.T) {
		e.eventually(t, "tulle check", func() error {
			if _, err := e.tulle(t, e.release, "check"); err == nil || !containsAll(err.Error(), name, bad.Name, reason) {
				return fmt.Errorf("it says: %w", err)
			}
			return nil
		})
		e.eventually(t, "tulle status", func() error {
			out, err := e.tulle(t, e.release, "status")
			if err != nil || !containsAll(out, name, "refuses 1") {
				return fmt.Errorf("it says %s: %w", out, err)
			}
			return nil
		})
		e.eventually(t, "an Event", func() error {
			out := e.run(t, "-n", "e2e-push", "get", "events", "--field-selector", "involvedObject.name=a,reason=RefusedByProxy", "-o", "jsonpath={.items[*].message}")
			if !containsAll(out, name, reason) {
				return fmt.Errorf("the Events say %q", out)
			}
			return nil
		})
	})
	t.Run("the rest goes on", func(t *testing.T) {
		was := f.version(good)
		port("b", "8081")
		e.eventually(t, "a change of another service", func() error {
			if now := f.version(good); now == was {
				return fmt.Errorf("%s is still %s", good, now)
			}
			return nil
		})
	})
	t.Run("a new version is refused, too", func(t *testing.T) {
		was := f.offered(bad)
		port("a", "8081")
		e.eventually(t, "an offer", func() error {
			if f.offered(bad) == was {
				return errors.New("none")
			}
			return nil
		})
		if f.version(bad) != "" {
			t.Errorf("%s is in use", bad)
		}
	})
	t.Run("it is offered again and taken", func(t *testing.T) {
		f.accept(bad)
		e.eventually(t, "use", func() error {
			if f.version(bad) == "" {
				return fmt.Errorf("%s is not in use", bad)
			}
			return nil
		})
		e.eventually(t, "tulle check", func() error {
			if _, err := e.tulle(t, e.release, "check"); err != nil && strings.Contains(err.Error(), bad.Name) {
				return err
			}
			return nil
		})
	})
}

func containsAll(s string, parts ...string) bool {
	for _, part := range parts {
		if !strings.Contains(s, part) {
			return false
		}
	}
	return true
}

// fakeProxy takes config and keeps the versions. Its methods may be called by any goroutine.
type fakeProxy struct {
	mu       sync.Mutex
	have     map[configv1.Key]string // in use
	offers   map[configv1.Key]int
	refusing map[configv1.Key]string // and why
	whole    bool                    // a full config came
	err      error                   // why the stream ended
}

// newFakeProxy subscribes to everything and answers until the stream ends; it refuses some, and says why.
func newFakeProxy(t *testing.T, s *stream, refusing map[configv1.Key]string) *fakeProxy {
	t.Helper()
	f := &fakeProxy{have: map[configv1.Key]string{}, offers: map[configv1.Key]int{}, refusing: refusing}
	if err := s.subscribeAll(); err != nil {
		t.Fatal(err)
	}
	go func() {
		err := s.run(f.take)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.err = err
	}()
	return f
}

func (f *fakeProxy) take(resp *discovery.DeltaDiscoveryResponse) []*configv1.Rejection {
	f.mu.Lock()
	defer f.mu.Unlock()
	var refused []*configv1.Rejection
	for _, r := range resp.GetResources() {
		key := configv1.Key{Type: resp.GetTypeUrl(), Name: r.GetName()}
		f.offers[key]++
		if reason := f.refusing[key]; reason != "" {
			refused = append(refused, &configv1.Rejection{TypeUrl: key.Type, Name: key.Name, Version: r.GetVersion(), Reason: reason})
			continue
		}
		f.have[key] = r.GetVersion()
	}
	for _, name := range resp.GetRemovedResources() {
		delete(f.have, configv1.Key{Type: resp.GetTypeUrl(), Name: name})
	}
	f.whole = f.whole || resp.GetSystemVersionInfo() != ""
	return refused
}

// accept ends the refusing.
func (f *fakeProxy) accept(key configv1.Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.refusing, key)
}

func (f *fakeProxy) version(key configv1.Key) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.have[key]
}

func (f *fakeProxy) offered(key configv1.Key) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.offers[key]
}

// ended is why the stream ended, nil while it has not.
func (f *fakeProxy) ended() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// complete says that a full config has come, or why none will.
func (f *fakeProxy) complete() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.whole {
		return fmt.Errorf("the config is not complete, the stream ended with: %w", f.err)
	}
	return nil
}
