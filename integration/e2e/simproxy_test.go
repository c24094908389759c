package e2e

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

// simProxy is a proxy pod as the API server and the controller know one: a Pod and a config stream.
type simProxy struct {
	*scale
	node, name, ip string
	token          string
	inSlices       atomic.Bool
	synced         chan struct{} // closed when a full config came
	once           sync.Once
	ended          chan error // why the stream ended
}

// awaited is a change of a service's endpoints.
type awaited struct {
	name  string
	begin time.Time
	got   chan time.Duration // one for each proxy that is sent it
}

// newProxy makes the pod, running and not ready, and its token.
func (s *scale) newProxy(t *testing.T, node string, number int) *simProxy {
	t.Helper()
	p := &simProxy{scale: s, node: node, name: fmt.Sprintf("tulle-proxy-%d", number), ip: address(200, number), synced: make(chan struct{}), ended: make(chan error, 1)}
	pod, err := s.makePod(t.Context(), podSpec{
		namespace: meshNamespace, name: p.name, account: "tulle-proxy", node: node, ip: p.ip,
		labels: map[string]string{"app.kubernetes.io/name": "tulle", "app.kubernetes.io/component": "proxy"},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.setReady(t, p, false)
	p.token = s.token(t, "tulle-proxy", pod)
	return p
}

func (s *scale) setReady(t *testing.T, p *simProxy, ready bool) {
	t.Helper()
	if err := s.setStatus(t.Context(), meshNamespace, p.name, p.ip, ready); err != nil {
		t.Fatal(err)
	}
}

// token is one of a ServiceAccount of the mesh's: of a proxy, if a pod is given, else for the API server.
func (s *scale) token(t *testing.T, account string, bound *corev1.Pod) string {
	t.Helper()
	request := &authenticationv1.TokenRequest{}
	if bound != nil {
		request.Spec.Audiences = []string{"tulle"}
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: bound.Name, UID: bound.UID}
	}
	r, err := s.client.CoreV1().ServiceAccounts(meshNamespace).CreateToken(t.Context(), account, request, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r.Status.Token
}

// connect waits for a controller that serves, connects all proxies and makes those ready that have a config.
func (s *scale) connect(t *testing.T) {
	t.Helper()
	roots := x509.NewCertPool()
	s.await(t, "the controller's CA", settleTimeout, func() error {
		m, err := s.client.CoreV1().ConfigMaps(meshNamespace).Get(t.Context(), "tulle-ca", metav1.GetOptions{})
		if err == nil && !roots.AppendCertsFromPEM([]byte(m.Data["ca.crt"])) {
			t.Fatalf("ConfigMap tulle-ca holds no certificate: %v", m.Data)
		}
		return err
	})
	s.stream = streamConfig{roots: roots, dial: func(ctx context.Context) (net.Conn, error) {
		return s.cluster.DialIn(ctx, "cp", fmt.Sprintf("127.0.0.1:%d", pushPort))
	}}
	forAll(t, len(s.proxies), func(_ context.Context, i int) error {
		p := s.proxies[i]
		if err := p.follow(s.t.Context()); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		return s.setStatus(t.Context(), meshNamespace, p.name, p.ip, true)
	})
}

func (s *scale) connectOne(t *testing.T, p *simProxy) {
	t.Helper()
	if err := p.follow(s.t.Context()); err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
}

// follow opens the stream and returns when a full config has come. The stream goes on until it or ctx ends.
func (p *simProxy) follow(ctx context.Context) error {
	config := p.stream
	config.token = p.token
	for begin := time.Now(); ; {
		s, err := openStream(ctx, config)
		if err == nil {
			if err = s.subscribeAll(); err == nil {
				go func() { p.ended <- s.run(p.take) }()
				select {
				case <-p.synced:
					return nil
				case err = <-p.ended: // it is not ready yet, in all likelihood
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
		if time.Since(begin) > settleTimeout {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollEvery):
		}
	}
}

// take looks for what is measured; it refuses nothing.
func (p *simProxy) take(resp *discovery.DeltaDiscoveryResponse) []*configv1.Rejection {
	switch resp.GetTypeUrl() {
	case configv1.EndpointsType:
		if w := p.changed.Load(); w != nil {
			for _, r := range resp.GetResources() {
				if r.GetName() == w.name {
					w.got <- time.Since(w.begin)
				}
			}
		}
	case configv1.ProxyType:
		for _, r := range resp.GetResources() {
			var own configv1.Proxy
			if err := r.GetResource().UnmarshalTo(&own); err == nil && r.GetName() == p.name {
				p.inSlices.Store(own.GetInSlices())
			}
		}
	}
	if resp.GetSystemVersionInfo() != "" {
		p.once.Do(func() { close(p.synced) })
	}
	return nil
}

// stopProxy is what happens when a pod gets SIGTERM: it stays until it is ended.
func (s *scale) stopProxy(t *testing.T, p *simProxy) {
	t.Helper()
	if !p.inSlices.Load() {
		t.Errorf("%s was never told that it is in slices", p.name)
	}
	grace := int64(60)
	if err := s.client.CoreV1().Pods(meshNamespace).Delete(t.Context(), p.name, metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
		t.Fatal(err)
	}
}

// endProxy removes the pod, after which its stream ends.
func (s *scale) endProxy(t *testing.T, p *simProxy) {
	t.Helper()
	now := int64(0)
	if err := s.client.CoreV1().Pods(meshNamespace).Delete(t.Context(), p.name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-p.ended:
		t.Logf("the stream of %s ended: %v", p.name, err)
	case <-time.After(settleTimeout):
		t.Fatalf("the stream of %s goes on although the pod is gone", p.name)
	}
}
