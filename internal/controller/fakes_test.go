package controller

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/proxyconfig"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/status"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// world is a cluster and its proxies in memory: it is Source, Publisher, Proxies, Writer, Reporter and Recorder.
type world struct {
	t       *testing.T
	changed chan struct{} // of the Source
	proxies chan struct{} // of the Proxies

	mu        sync.Mutex
	snapshot  Snapshot
	shadows   map[string]*corev1.Service
	slices    map[string]*discoveryv1.EndpointSlice
	connected []status.Proxy
	snapshots int
	common    []configv1.Resource
	perProxy  map[string][]configv1.Resource
	published []time.Time
	applied   int
	writes    int
	refuse    map[string]error // shadow Services that cannot be written
	slow      time.Duration    // that a write takes
	overtaken bool             // every write finds that somebody else was faster
	reported  []problem.Problem
	leader    []status.Leader
	replica   []status.Replica
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, changed: make(chan struct{}, 1), proxies: make(chan struct{}, 1), shadows: map[string]*corev1.Service{}, slices: map[string]*discoveryv1.EndpointSlice{}, refuse: map[string]error{}}
	w.snapshot.Proxies = []shadow.Proxy{{Pod: "p1", UID: "u1", Node: "n1", Addresses: []netip.Addr{netip.MustParseAddr("10.0.1.1")}, Ready: true}}
	return w
}

func (w *world) controller() *Controller {
	return New(Config{
		Topology: topology.Config{MeshNamespace: "tulle-system"}, Shadow: shadow.Config{Namespace: "tulle-system"},
		ProxyConfig: proxyconfig.Config{Zones: []string{"mesh"}},
		Source:      w, Publisher: w, Proxies: connections{w}, Writer: w, Reporter: w, Recorder: w,
		Log: slog.New(slog.DiscardHandler), Pod: "c-1", Version: "v1",
		IdentityLifetime: 1000 * time.Hour, // renewals are one test's affair
	})
}

// run starts a Controller; the end of the test ends it.
func (w *world) run(lead bool) *Controller {
	c := w.controller()
	w.runs(c, lead)
	return c
}

func (w *world) runs(c *Controller, lead bool) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var g sync.WaitGroup
	g.Go(func() { _ = c.Run(ctx) })
	if lead {
		g.Go(func() { _ = c.Lead(ctx) })
	}
	w.t.Cleanup(func() { cancel(); g.Wait() })
}

func (w *world) Changed() <-chan struct{} { return w.changed }

func (w *world) Snapshot() Snapshot {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.snapshots++
	s := w.snapshot
	s.Shadow = shadow.State{
		Services: slices.SortedFunc(maps.Values(w.shadows), func(a, b *corev1.Service) int { return strings.Compare(a.Name, b.Name) }),
		Slices:   slices.SortedFunc(maps.Values(w.slices), func(a, b *discoveryv1.EndpointSlice) int { return strings.Compare(a.Name, b.Name) }),
	}
	return s
}

func (w *world) writesTake(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.slow = d
}

// change changes the cluster.
func (w *world) change(f func(s *Snapshot)) {
	w.mu.Lock()
	f(&w.snapshot)
	w.snapshot.Version++
	w.mu.Unlock()
	signal(w.changed)
}

func (w *world) services(names ...string) {
	w.change(func(s *Snapshot) {
		s.Resources.Services = nil
		for _, name := range names {
			s.Resources.Services = append(s.Resources.Services, &corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name)},
				Spec:       corev1.ServiceSpec{ClusterIP: "10.96.9.9", Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}}},
			})
		}
	})
}

func (w *world) Publish(common []configv1.Resource, perProxy map[string][]configv1.Resource) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.common, w.perProxy = common, perProxy
	w.published = append(w.published, time.Now())
}

// addresses are the mesh addresses that were published of a service; ok is false if there is no such service.
func (w *world) addresses(name string) (addresses []string, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.common {
		if m, is := r.Message.(*configv1.Service); is && r.Name == "shop/"+name {
			return m.Addresses, true
		}
	}
	return nil, false
}

func (w *world) targetPort(name string) uint32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.common {
		if m, is := r.Message.(*configv1.Service); is && r.Name == "shop/"+name {
			return m.Ports[0].TargetPort
		}
	}
	return 0
}

func (w *world) resource(key configv1.Key) configv1.Resource {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.common {
		if r.Key == key {
			return r
		}
	}
	w.t.Fatalf("no %v", key)
	return configv1.Resource{}
}

// connections are the Proxies of a world.
type connections struct{ *world }

func (c connections) Changed() <-chan struct{} { return c.proxies }

func (c connections) Connected() []status.Proxy {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.connected)
}

func (w *world) connect(p ...status.Proxy) {
	w.mu.Lock()
	w.connected = p
	w.mu.Unlock()
	signal(w.proxies)
}

func (w *world) Apply(ctx context.Context, c shadow.Changes) (int, error) {
	w.mu.Lock()
	slow := w.slow
	w.mu.Unlock()
	wait(ctx, slow)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.applied++
	if w.overtaken {
		return 0, nil
	}
	before := w.writes
	var errs []error
	allowed := func(name string) bool {
		if err := w.refuse[name]; err != nil {
			errs = append(errs, &WriteError{Shadow: name, Op: "create Service", Err: err})
			return false
		}
		w.writes++
		return true
	}
	for _, s := range slices.Concat(c.CreateServices, c.UpdateServices) {
		if allowed(s.Name) {
			s = s.DeepCopy()
			s.Spec.ClusterIPs = []string{fmt.Sprintf("10.96.0.%d", len(w.shadows)+1)}
			w.shadows[s.Name] = s
			w.snapshot.Version++ // it is one of the cluster's Services, too
		}
	}
	for _, s := range slices.Concat(c.CreateSlices, c.UpdateSlices) {
		if allowed(s.Labels[discoveryv1.LabelServiceName]) {
			w.slices[s.Name] = s
		}
	}
	for _, s := range c.DeleteServices {
		delete(w.shadows, s.Name)
	}
	for _, s := range c.DeleteSlices {
		delete(w.slices, s.Name)
	}
	signal(w.changed)
	return w.writes - before, joined(errs)
}

func joined(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	return manyErrors(errs)
}

// manyErrors is what errors.Join makes, in essence.
type manyErrors []error

func (e manyErrors) Error() string   { return fmt.Sprint([]error(e)) }
func (e manyErrors) Unwrap() []error { return e }

func (w *world) Report(_ context.Context, problems []problem.Problem) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reported = problems
	return false, nil
}

func (w *world) RecordLeader(_ context.Context, l status.Leader) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leader = append(w.leader, l)
	w.snapshot.LeaderRecorded = true
	signal(w.changed)
	return nil
}

func (w *world) RecordReplica(_ context.Context, r status.Replica) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.replica = append(w.replica, r)
	w.snapshot.ReplicaRecorded = true
	signal(w.changed)
	return nil
}

// problemsOf are the problems that were reported of a reason.
func (w *world) problemsOf(reason problem.Reason) []problem.Problem {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.reported), func(p problem.Problem) bool { return p.Reason != reason })
}

func (w *world) count(n *int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return *n
}

func (w *world) times() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.published)
}
