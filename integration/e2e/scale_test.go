package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/tulle-mesh/tulle/integration/cluster"
	chart "github.com/tulle-mesh/tulle/internal/install"
)

// scaleSize is a cluster without kubelets, and what is done to it.
type scaleSize struct {
	services, proxies int  // two workload pods for each service
	shared            bool // one mesh address for all services
	replaced, changes int
}

func (s scaleSize) String() string {
	mode := "dedicated"
	if s.shared {
		mode = "shared"
	}
	return fmt.Sprintf("%d services, %d proxies, %s", s.services, s.proxies, mode)
}

// TestScale runs the real controller, against a real API server, with many simulated proxies and no kubelet. What it
// reports as FIGURE is in docs/operations.md; sizes to compare with are measured on request.
func TestScale(t *testing.T) {
	if os.Getenv(gateEnv) == "" || givenKubeconfig() != "" {
		t.Skipf("the test of size is skipped: set %s=1, as root on Linux, without KUBECONFIG", gateEnv)
	}
	sizes := []scaleSize{{services: 1000, proxies: 200, replaced: 3, changes: 20}}
	if os.Getenv(soakEnv) != "" {
		sizes = append(sizes,
			scaleSize{services: 1000, proxies: 20, replaced: 5, changes: 20},
			scaleSize{services: 1000, proxies: 200, shared: true, replaced: 5, changes: 20},
		)
	}
	for _, size := range sizes {
		t.Run(size.String(), func(t *testing.T) {
			s := newScale(t, size)
			t.Run("steady state", s.steady)
			t.Run("proxies are replaced", s.replace)
			t.Run("changes", s.change)
			t.Run("no errors", s.noErrors)
		})
	}
}

// scale is a cluster of one size.
type scale struct {
	t       *testing.T // that of all parts
	size    scaleSize
	cluster *cluster.Cluster
	client  kubernetes.Interface
	slices  cache.Store // the mesh addresses'
	proxies []*simProxy
	stream  streamConfig // without a token
	changed atomic.Pointer[awaited]
	program string
	pid     int // of the controller
}

// newScale makes everything but the controller.
func newScale(t *testing.T, size scaleSize) *scale {
	t.Helper()
	c, err := cluster.Start(t.Context(), cluster.Options{NoNodes: true, LogDir: t.ArtifactDir(), Log: func(s string) { t.Log(s) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	s := &scale{t: t, size: size, cluster: c, program: filepath.Join(t.TempDir(), "tulle-controller")}
	t.Cleanup(func() {
		if t.Failed() {
			log, err := os.ReadFile(filepath.Join(c.Options().LogDir, "tulle-controller.log"))
			t.Logf("the end of the controller's log: %s, %v", last(string(log), 6000), err)
		}
	})
	s.build(t)
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst = 2000, 4000
	config.AcceptContentTypes, config.ContentType = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf"
	if s.client, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	s.install(t)
	s.populate(t)
	s.watchSlices(t)
	return s
}

func (s *scale) build(t *testing.T) {
	t.Helper()
	root, err := cluster.FindRoot("")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), buildTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", s.program, "./cmd/tulle-controller")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the controller: %v: %s", err, out)
	}
}

// install applies the chart without what would be run by kubelets.
func (s *scale) install(t *testing.T) {
	t.Helper()
	r, err := chart.Render(chart.Release{Namespace: meshNamespace})
	if err != nil {
		t.Fatal(err)
	}
	objects := slices.DeleteFunc(r.Objects, func(o *unstructured.Unstructured) bool {
		return slices.Contains([]string{"DaemonSet", "Deployment"}, o.GetKind())
	})
	var crds, all bytes.Buffer
	if err := chart.Encode(&crds, append(r.CRDs, chart.Namespace(meshNamespace))...); err != nil {
		t.Fatal(err)
	}
	if err := chart.Encode(&all, objects...); err != nil {
		t.Fatal(err)
	}
	for _, yaml := range []string{crds.String(), all.String()} {
		if _, err := s.cluster.Kubectl.Apply(t.Context(), yaml, "apply", "--server-side", "-f", "-"); err != nil {
			t.Fatal(err)
		}
	}
}

// start starts the controller as the chart would, with the rights that the chart gives it.
func (s *scale) start(t *testing.T) {
	t.Helper()
	config, err := clientcmd.LoadFromFile(s.cluster.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range config.Clusters {
		c.Server = s.cluster.APIServer()
	}
	token := s.token(t, "tulle-controller", nil)
	for name := range config.AuthInfos {
		config.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: token}
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	args := []string{s.program, "--kubeconfig=" + file, "--pod-name=tulle-controller-0", "--pod-namespace=" + meshNamespace}
	if s.size.shared {
		args = append(args, "--addresses-http=shared")
	}
	if s.pid, err = s.cluster.StartProgram("tulle-controller", args...); err != nil {
		t.Fatal(err)
	}
}

// watchSlices keeps a copy of what one kube-proxy would see of the mesh addresses.
func (s *scale) watchSlices(t *testing.T) {
	t.Helper()
	list := cache.NewFilteredListWatchFromClient(s.client.DiscoveryV1().RESTClient(), "endpointslices", meshNamespace, func(o *metav1.ListOptions) {
		o.LabelSelector = discoveryv1.LabelManagedBy + "=tulle-controller"
	})
	store, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: list, ObjectType: &discoveryv1.EndpointSlice{}, Handler: cache.ResourceEventHandlerFuncs{},
	})
	s.slices = store
	go informer.RunWithContext(t.Context())
}

// addresses is how many mesh addresses there are to be.
func (s *scale) addresses() int {
	if s.size.shared {
		return 1
	}
	return s.size.services
}

// inAll says whether every mesh address leads to exactly the proxies that are given.
func (s *scale) inAll(proxies []*simProxy) error {
	ips := map[string]bool{}
	for _, p := range proxies {
		ips[p.ip] = true
	}
	found := map[string]int{} // by Service
	for _, o := range s.slices.List() {
		slice := o.(*discoveryv1.EndpointSlice)
		for _, e := range slice.Endpoints {
			if !ips[e.Addresses[0]] {
				return fmt.Errorf("slice %s has %s, which it should not", slice.Name, e.Addresses[0])
			}
		}
		found[slice.Labels[discoveryv1.LabelServiceName]] += len(slice.Endpoints)
	}
	if len(found) != s.addresses() {
		return fmt.Errorf("%d mesh addresses have slices, want %d", len(found), s.addresses())
	}
	for name, n := range found {
		if n != len(ips) {
			return fmt.Errorf("%s has %d endpoints, want %d", name, n, len(ips))
		}
	}
	return nil
}

// steady is the way from nothing but Services and proxies to a mesh that is complete.
func (s *scale) steady(t *testing.T) {
	before := s.costs(t)
	begin := time.Now()
	s.start(t)
	s.connect(t)
	s.await(t, "all proxies in all slices", rolloutTimeout, func() error { return s.inAll(s.proxies) })
	complete := time.Since(begin)
	s.await(t, "confirmed config", settleTimeout, func() error {
		if n := s.metrics(t).sum("tulle_controller_current_proxies", nil); int(n) != s.size.proxies {
			return fmt.Errorf("%v of %d proxies have the current config", n, s.size.proxies)
		}
		return nil
	})
	c := s.costs(t).minus(before)
	t.Logf("FIGURE %s: steady after %.1f s: %s", s.size, complete.Seconds(), c)
	if int(c.services) != s.addresses() {
		t.Errorf("%v writes of Services, want %d", c.services, s.addresses())
	}
	if c.peakMiB > 512 {
		t.Errorf("the controller took %d MiB, want at most 512", c.peakMiB)
	}
	s.idle(t)
}

// idle measures what a quiet cluster costs.
func (s *scale) idle(t *testing.T) {
	before := s.costs(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	<-ctx.Done()
	c := s.costs(t).minus(before)
	t.Logf("FIGURE %s: idle for 5 s: %s", s.size, c)
	if c.writes != 0 {
		t.Errorf("%v writes although nothing changed", c.writes)
	}
}

// replace does to some proxies what a roll-out does: a new one on the same node is ready before the old one stops. The
// slices have one proxy of each node, so they change when the old one is told to stop.
func (s *scale) replace(t *testing.T) {
	before := s.costs(t)
	var moved, told []time.Duration
	for i := range s.size.replaced {
		old := s.proxies[i]
		next := s.newProxy(t, old.node, s.size.proxies+i)
		s.connectOne(t, next)
		s.setReady(t, next, true)
		s.proxies[i] = next

		begin := time.Now()
		s.stopProxy(t, old)
		s.await(t, "the new proxy instead of the old one in all slices", rolloutTimeout, func() error { return s.inAll(s.proxies) })
		moved = append(moved, time.Since(begin))
		s.await(t, "word that the old proxy is in none", settleTimeout, func() error {
			if old.inSlices.Load() {
				return fmt.Errorf("%s is told that it is in slices", old.name)
			}
			return nil
		})
		told = append(told, time.Since(begin))
		s.endProxy(t, old)
	}
	c := s.costs(t).minus(before).per(s.size.replaced)
	t.Logf("FIGURE %s: a proxy is replaced: all slices have the new one after %s, the old one knows after %s; %s", s.size, spread(moved), spread(told), c)
	if c.writes > 1.05*float64(s.addresses())+2 {
		t.Errorf("%.0f writes for each proxy replaced, want one for each of %d addresses", c.writes, s.addresses())
	}
	if c.services != 0 {
		t.Errorf("%v Services were written for each proxy replaced", c.services)
	}
}

// change adds and removes endpoints and looks when each proxy is sent that.
func (s *scale) change(t *testing.T) {
	before := s.costs(t)
	var all, latest []time.Duration
	for i := range s.size.changes {
		w := &awaited{name: serviceKey(i * 7 % s.size.services), got: make(chan time.Duration, 2*len(s.proxies))}
		slice, err := s.client.DiscoveryV1().EndpointSlices(serviceNamespace(i*7%s.size.services)).Get(t.Context(), serviceName(i*7%s.size.services), metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ready := false
		slice.Endpoints[0].Conditions.Ready = &ready
		w.begin = time.Now()
		s.changed.Store(w)
		if _, err := s.client.DiscoveryV1().EndpointSlices(slice.Namespace).Update(t.Context(), slice, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		var took []time.Duration
		timeout := time.After(settleTimeout)
		for len(took) < len(s.proxies) {
			select {
			case d := <-w.got:
				took = append(took, d)
			case <-timeout:
				t.Fatalf("%d of %d proxies were sent %s", len(took), len(s.proxies), w.name)
			}
		}
		all, latest = append(all, took...), append(latest, slices.Max(took))
	}
	s.changed.Store(nil)
	t.Logf("FIGURE %s: a changed endpoint is at a proxy after %s, at the last one after %s; %s",
		s.size, spread(all), spread(latest), s.costs(t).minus(before).per(s.size.changes))
	if p := quantile(all, .95); p > time.Second {
		t.Errorf("changes took %v at p95, want under 1 s", p)
	}
}

func (s *scale) noErrors(t *testing.T) {
	m := s.metrics(t)
	for name, labels := range map[string]map[string]string{
		"tulle_controller_rounds_total": {"result": "error"}, "tulle_controller_write_errors_total": nil, "tulle_controller_push_nacks_total": nil, "tulle_problems": nil,
	} {
		if n := m.sum(name, labels); n != 0 {
			t.Errorf("%s is %v, want 0", name, n)
		}
	}
	if n := m.sum("tulle_controller_pending_writes", nil); n != 0 {
		t.Errorf("%v writes are left to do, want none", n)
	}
	c := s.costs(t)
	t.Logf("FIGURE %s: in all: %.0f writes of mesh addresses, %.1f s of CPU, at most %d MiB; a round took %.1f ms on average", s.size, c.writes, c.cpu, c.peakMiB, c.roundMS)
}

// await polls until the condition holds.
func (s *scale) await(t *testing.T, what string, limit time.Duration, condition func() error) {
	t.Helper()
	for begin := time.Now(); ; {
		err := condition()
		if err == nil {
			return
		}
		if time.Since(begin) > limit {
			t.Fatalf("%s: not within %v: %v", what, limit, err)
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("%s: %v", what, t.Context().Err())
		case <-time.After(pollEvery):
		}
	}
}

// forAll calls f with 0 to n-1, several at once.
func forAll(t *testing.T, n int, f func(ctx context.Context, i int) error) {
	t.Helper()
	g, ctx := errgroup.WithContext(t.Context())
	g.SetLimit(32)
	for i := range n {
		g.Go(func() error { return f(ctx, i) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

func serviceNamespace(i int) string { return fmt.Sprintf("team-%d", i%10) }
func serviceName(i int) string      { return fmt.Sprintf("service-%d", i) }
func serviceKey(i int) string       { return serviceNamespace(i) + "/" + serviceName(i) }
func nodeName(i int) string         { return fmt.Sprintf("node-%d", i) }

// populate makes nodes, Services with two pods each, and proxies that are not ready.
func (s *scale) populate(t *testing.T) {
	t.Helper()
	begin := time.Now()
	for i := range 10 {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: serviceNamespace(i)}}
		if _, err := s.client.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	forAll(t, s.size.proxies, s.makeNode)
	for i := range 10 {
		s.await(t, "a default ServiceAccount", settleTimeout, func() error {
			_, err := s.client.CoreV1().ServiceAccounts(serviceNamespace(i)).Get(t.Context(), "default", metav1.GetOptions{})
			return err
		})
	}
	forAll(t, s.size.services, s.makeService)
	for i := range s.size.proxies {
		s.proxies = append(s.proxies, s.newProxy(t, nodeName(i), i))
	}
	t.Logf("%d nodes, %d Services, %d pods made in %v", s.size.proxies, s.size.services, 2*s.size.services+s.size.proxies, time.Since(begin).Round(time.Second))
}
