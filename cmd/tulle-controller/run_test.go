package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/firsthop"
	"github.com/tulle-mesh/tulle/internal/kube"
	"github.com/tulle-mesh/tulle/internal/push"
	"github.com/tulle-mesh/tulle/internal/status"
)

// api is an API server in memory, with what a cluster adds: cluster IPs, and tokens that are the name of a pod and an audience.
func api() *fake.Clientset {
	client := fake.NewClientset()
	var mu sync.Mutex
	addresses := 0
	client.PrependReactor("create", "services", func(a clienttesting.Action) (bool, runtime.Object, error) {
		create, _ := a.(clienttesting.CreateAction)
		s, _ := create.GetObject().(*corev1.Service)
		mu.Lock()
		defer mu.Unlock()
		addresses++
		s.Spec.ClusterIP = fmt.Sprintf("10.96.0.%d", addresses)
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
		return false, nil, nil
	})
	client.PrependReactor("create", "tokenreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		create, _ := a.(clienttesting.CreateAction)
		r, _ := create.GetObject().(*authenticationv1.TokenReview)
		r = r.DeepCopy()
		pod, audience, _ := strings.Cut(r.Spec.Token, "@")
		if !slices.Equal(r.Spec.Audiences, []string{audience}) {
			r.Status.Error = "invalid audience"
			return true, r, nil
		}
		r.Status = authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: r.Spec.Audiences, User: authenticationv1.UserInfo{
			Username: "system:serviceaccount:tulle-system:tulle-proxy",
			Extra:    map[string]authenticationv1.ExtraValue{"authentication.kubernetes.io/pod-name": {pod}, "authentication.kubernetes.io/pod-uid": {"uid-" + pod}},
		}}
		return true, r, nil
	})
	return client
}

func pod(name, component, ip string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "tulle-system", Name: name, UID: "uid-p1", Labels: map[string]string{"app.kubernetes.io/name": "tulle", "app.kubernetes.io/component": component}},
		Spec: corev1.PodSpec{NodeName: "n1", ServiceAccountName: "tulle-" + component, Containers: []corev1.Container{{
			Name: component, Ports: []corev1.ContainerPort{{Name: "tunnel", ContainerPort: 15008}},
		}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
}

// replica is a controller that runs.
type replica struct {
	*command
	*listeners
}

func start(t *testing.T, client *fake.Clientset, name string, flags ...string) replica {
	t.Helper()
	kinds := map[schema.GroupVersionResource]string{{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}: "CustomResourceDefinitionList"}
	c, err := complete(t, nil, append(flags, "--pod-name="+name, "--push-address=127.0.0.1:0", "--webhook-address=127.0.0.1:0", "--webhook-stop-lag=0s", "--metrics-address=127.0.0.1:0", "--health-address=127.0.0.1:0", "--admin-address=127.0.0.1:0")...)
	if err != nil {
		t.Fatal(err)
	}
	c.log = slog.New(slog.DiscardHandler)
	c.clients = &kube.Clients{Read: client, Write: client, Events: client, DNS: client, Dynamic: dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), kinds)}
	l, err := c.listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.wire()
	running(t, func(ctx context.Context) error { return c.serve(ctx, l) })
	return replica{c, l}
}

// running has something run until the test ends.
func running(t *testing.T, serve func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// written is the state that the controllers wrote down; without a leader before they have.
func written(t *testing.T, client *fake.Clientset) status.Status {
	t.Helper()
	m, err := client.CoreV1().ConfigMaps("tulle-system").Get(t.Context(), status.ConfigMap, metav1.GetOptions{})
	if err != nil {
		return status.Status{}
	}
	s, err := status.Decode(m.Data, m.BinaryData)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for tick := time.NewTicker(10 * time.Millisecond); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	r, err := http.Get(url) //nolint:noctx // it is on this machine and in memory
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

// seen is what a proxy was sent.
type seen struct {
	mu       sync.Mutex
	services map[string]*configv1.Service
	bundle   *configv1.TrustBundle
	nodes    map[string]*configv1.NodeProxies
}

func (s *seen) Apply(u configv1.Update) []configv1.Refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range u.Set {
		switch m := r.Message.(type) {
		case *configv1.Service:
			s.services[r.Name] = m
		case *configv1.TrustBundle:
			s.bundle = m
		case *configv1.NodeProxies:
			s.nodes[r.Name] = m
		}
	}
	return nil
}

// proxyOf connects a proxy with a token to a replica.
func proxyOf(t *testing.T, client *fake.Clientset, r replica, token string) *seen {
	t.Helper()
	var ca *corev1.ConfigMap
	eventually(t, "a CA", func() (ok bool) {
		var err error
		ca, err = client.CoreV1().ConfigMaps("tulle-system").Get(t.Context(), kube.CAConfigMap, metav1.GetOptions{})
		return err == nil
	})
	dir := t.TempDir()
	caFile, tokenFile := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "token")
	for file, text := range map[string]string{caFile: ca.Data[kube.CAKey], tokenFile: token} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := &seen{services: map[string]*configv1.Service{}, nodes: map[string]*configv1.NodeProxies{}}
	p := push.NewClient(push.ClientConfig{
		Addr: r.listeners.push.Addr().String(), ServerName: "tulle-controller.tulle-system.svc", CAFile: caFile, TokenFile: tokenFile,
		Applier: s, Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestWhole runs two replicas from a Service in the API server to the config of a proxy at either.
func TestWhole(t *testing.T) {
	client := api()
	for _, p := range []*corev1.Pod{pod("p1", "proxy", "10.0.0.1"), pod("c-1", "controller", "10.0.0.8"), pod("c-2", "controller", "10.0.0.9")} {
		if _, err := client.CoreV1().Pods("tulle-system").Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	replicas := []replica{start(t, client, "c-1"), start(t, client, "c-2")}
	for _, r := range replicas {
		eventually(t, "ready", func() bool {
			code, _ := get(t, "http://"+r.health.Addr().String()+"/readyz")
			return code == http.StatusOK
		})
	}
	if _, err := client.CoreV1().Services("shop").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var proxies []*seen
	for _, r := range replicas {
		proxy := proxyOf(t, client, r, "p1@tulle")
		proxies = append(proxies, proxy)
		eventually(t, "the mesh address of web", func() bool {
			proxy.mu.Lock()
			defer proxy.mu.Unlock()
			web := proxy.services["shop/web"]
			return web != nil && len(web.Addresses) == 1 && web.Ports[0].TargetPort != 0
		})
	}
	certifies(t, client, proxies)
	eventually(t, "both replicas' proxies are written down", func() bool {
		s := written(t, client)
		return s.Leader.Addresses.Assigned == 1 && s.Leader.DNS != nil && s.Leader.DNS.Mode == "off" && len(s.Replicas) == 2 &&
			len(s.Replicas[0].Proxies) == 1 && len(s.Replicas[1].Proxies) == 1 && s.Replicas[1].Proxies[0].Current && s.Replicas[0].ConfigVersion == s.Replicas[1].ConfigVersion
	})
	leading := 0
	for _, r := range replicas {
		_, text := get(t, "http://"+r.listeners.metrics.Addr().String()+"/metrics")
		for _, name := range []string{"tulle_controller_connected_proxies 1", "tulle_build_info{", "tulle_controller_rounds_total{", "go_goroutines"} {
			if !strings.Contains(text, name) {
				t.Errorf("no metric %s", name)
			}
		}
		leading += strings.Count(text, "\ntulle_controller_leader 1\n")
		if code, _ := get(t, "http://"+r.admin.Addr().String()+"/debug/pprof/heap"); code != http.StatusOK {
			t.Errorf("pprof answers %d", code)
		}
		if code, text := get(t, "http://"+r.admin.Addr().String()+firsthop.URL("mesh", netip.MustParseAddrPort("127.0.0.1:1"))); code != http.StatusOK || !strings.Contains(text, `"pod":"`+r.podName+`"`) {
			t.Errorf("who is asked for the first hop answers %d %s", code, text)
		}
	}
	if leading != 1 {
		t.Errorf("%d replicas lead", leading)
	}
	metricsAreDocumented(t, replicas[0])
}

// metricsAreDocumented: what is served is in the documentation, and the other way round.
func metricsAreDocumented(t *testing.T, r replica) {
	t.Helper()
	documented, served := documentedMetrics(t, "# Metrics of the controller"), servedMetrics(t, r.listeners.metrics)
	// These have no series without a problem, and before the leader has looked.
	for _, name := range []string{"tulle_problems", "tulle_protected_workloads"} {
		documented[name], served[name] = true, true
	}
	if !maps.Equal(documented, served) {
		t.Errorf("documented: %v\nserved: %v", slices.Sorted(maps.Keys(documented)), slices.Sorted(maps.Keys(served)))
	}
}

// documentedMetrics are those of a chapter, or of all chapters if that is "".
func documentedMetrics(t *testing.T, chapter string) map[string]bool {
	t.Helper()
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	if chapter != "" {
		_, page, _ = bytes.Cut(page, []byte(chapter))
		page, _, _ = bytes.Cut(page, []byte("\n# "))
	}
	return names(regexp.MustCompile("`(tulle_[a-z_]+)`"), string(page))
}

func servedMetrics(t *testing.T, l net.Listener) map[string]bool {
	t.Helper()
	_, text := get(t, "http://"+l.Addr().String()+"/metrics")
	return names(regexp.MustCompile(`(?m)^# TYPE (tulle_[a-z_]+) `), text)
}

func names(of *regexp.Regexp, text string) map[string]bool {
	out := map[string]bool{}
	for _, m := range of.FindAllStringSubmatch(text, -1) {
		out[m[1]] = true
	}
	return out
}

func TestNotReadySaysWhy(t *testing.T) {
	client := api()
	client.PrependReactor("list", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, fmt.Errorf("no rights to list nodes")
	})
	r := start(t, client, "c-1")
	eventually(t, "the reason", func() bool {
		code, text := get(t, "http://"+r.health.Addr().String()+"/readyz")
		return code == http.StatusServiceUnavailable && strings.Contains(text, "no rights to list nodes") && !strings.Contains(text, "pods")
	})
	if code, _ := get(t, "http://"+r.health.Addr().String()+"/healthz"); code != http.StatusOK {
		t.Errorf("healthz answers %d", code)
	}
}

func TestAddressInUseIsNamed(t *testing.T) {
	c, err := complete(t, nil, "--push-address=127.0.0.1:0", "--webhook-address=127.0.0.1:0", "--metrics-address=127.0.0.1:0", "--health-address=203.0.113.1:1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.listen(t.Context()); err == nil || !strings.Contains(err.Error(), "--health-address") {
		t.Errorf("got %v", err)
	}
}
