package kube

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/tulle-mesh/tulle/internal/controller"
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/smi"
	"github.com/tulle-mesh/tulle/internal/status"
)

// SourceConfig is what a Source needs. All but Trust and Patience is required.
type SourceConfig struct {
	Client    kubernetes.Interface
	Dynamic   dynamic.Interface
	Namespace string // the mesh's
	Pod       string // this controller's
	Log       *slog.Logger
	// Trust says that the mesh has a CA of identities of its own, which writes down whom to trust.
	Trust bool
	// Patience is how long to wait for an SMI kind that is served and cannot be read, before the first snapshot: a
	// config without the splits that exist would move traffic. Default 30 s.
	Patience time.Duration
}

// Source is a controller.Source over a cluster.
type Source struct {
	config   SourceConfig
	changed  chan struct{}
	ready    chan struct{} // closed when there is a whole snapshot
	version  atomic.Uint64 // of what a topology is made of
	watchers []*watcher
	synced   []func() bool // of the kinds that must be read

	services    split[*corev1.Service]
	endpoints   split[*discoveryv1.EndpointSlice]
	pods        split[*corev1.Pod]
	nodes       *list[*corev1.Node]
	namespaces  *list[*corev1.Namespace]
	accounts    *list[*corev1.ServiceAccount]
	cidrs       *list[*networkingv1.ServiceCIDR]
	policies    *list[*networkingv1.NetworkPolicy]
	owners      []*list[ownerOf] // Deployments, StatefulSets, DaemonSets
	deployments *list[ownerOf]   // of owners
	state       *list[stateMap]
	dns         *list[dnsMap]
	smi         []*smiWatch
	trust       atomic.Pointer[TrustState]
}

// NewSource makes a Source; Run starts it.
func NewSource(c SourceConfig) *Source {
	if c.Patience == 0 {
		c.Patience = 30 * time.Second
	}
	s := &Source{config: c, changed: make(chan struct{}, 1), ready: make(chan struct{})}
	core, n := c.Client.CoreV1(), c.Namespace
	// The mesh's own slices change all the time when proxies are replaced, and no topology is made of them.
	s.services = splitOf(n, keepMeshService, nil, s.renew, keepService, equal, s.renew)
	s.endpoints = splitOf(n, keepMeshSlice(), nil, s.signal, keepSlice, nil, s.renew)
	s.pods = splitOf(n, keepMeshPod, equal, s.renew, keepPod, equal, s.renew)
	s.nodes = &list[*corev1.Node]{keep: keepNode, same: equal[*corev1.Node], changed: s.renew}
	s.namespaces = &list[*corev1.Namespace]{keep: keepNamespace, same: equal[*corev1.Namespace], changed: s.renew}
	s.accounts = &list[*corev1.ServiceAccount]{keep: keepServiceAccount, same: equal[*corev1.ServiceAccount], changed: s.renew}
	s.cidrs = &list[*networkingv1.ServiceCIDR]{keep: keepServiceCIDR, same: equal[*networkingv1.ServiceCIDR], changed: s.renew}
	s.policies = &list[*networkingv1.NetworkPolicy]{keep: keepPolicy, same: samePolicy, changed: s.signal}
	s.state = &list[stateMap]{keep: keepState, same: stateMap.same, changed: s.signal}
	s.dns = &list[dnsMap]{keep: keepDNSReport, same: dnsMap.same, changed: s.signal}

	add(s, newWatcher("services", c.Client, core.Services(""), "", &corev1.Service{}, s.services), s.services.isSynced)
	add(s, newWatcher("endpointslices", c.Client, c.Client.DiscoveryV1().EndpointSlices(""), "", &discoveryv1.EndpointSlice{}, s.endpoints), s.endpoints.isSynced)
	add(s, newWatcher("pods", c.Client, core.Pods(""), "", &corev1.Pod{}, s.pods), s.pods.isSynced)
	add(s, newWatcher("nodes", c.Client, core.Nodes(), "", &corev1.Node{}, s.nodes), s.nodes.isSynced)
	add(s, newWatcher("namespaces", c.Client, core.Namespaces(), "", &corev1.Namespace{}, s.namespaces), s.namespaces.isSynced)
	add(s, newWatcher("serviceaccounts", c.Client, core.ServiceAccounts(""), "", &corev1.ServiceAccount{}, s.accounts), s.accounts.isSynced)
	add(s, newWatcher("configmap "+status.ConfigMap, c.Client, core.ConfigMaps(n), "metadata.name="+status.ConfigMap, &corev1.ConfigMap{}, s.state), s.state.isSynced)
	if c.Trust {
		trust := &list[*corev1.ConfigMap]{keep: keepTrust(&s.trust, c.Log), same: equal[*corev1.ConfigMap], changed: s.signal}
		add(s, newWatcher("configmap "+TrustConfigMap, c.Client, core.ConfigMaps(n), "metadata.name="+TrustConfigMap, &corev1.ConfigMap{}, trust), trust.isSynced)
	}
	// No config is made of it, so that none waits for it.
	add(s, newWatcher("configmap "+status.DNSConfigMap, c.Client, core.ConfigMaps(n), "metadata.name="+status.DNSConfigMap, &corev1.ConfigMap{}, s.dns), func() bool { return true })
	cidrs := newWatcher("servicecidrs", c.Client, c.Client.NetworkingV1().ServiceCIDRs(), "", &networkingv1.ServiceCIDR{}, s.cidrs)
	cidrs.optional = true
	add(s, cidrs, func() bool { absent, _ := cidrs.state(); return absent || s.cidrs.isSynced() })
	add(s, newWatcher("networkpolicies", c.Client, c.Client.NetworkingV1().NetworkPolicies(""), "", &networkingv1.NetworkPolicy{}, s.policies), s.policies.isSynced)
	apps := c.Client.AppsV1()
	s.deployments = addOwners(s, "deployments", apps.Deployments(""), &appsv1.Deployment{})
	addOwners(s, "statefulsets", apps.StatefulSets(""), &appsv1.StatefulSet{})
	addOwners(s, "daemonsets", apps.DaemonSets(""), &appsv1.DaemonSet{})
	for _, k := range smiKinds() {
		s.smi = append(s.smi, newSMIWatch(k, c.Dynamic, s.renew))
	}
	return s
}

func add(s *Source, w *watcher, synced func() bool) {
	s.watchers, s.synced = append(s.watchers, w), append(s.synced, synced)
}

// addOwners watches a kind of what makes pods.
func addOwners[L runtime.Object](s *Source, name string, r listable[L], expected any) *list[ownerOf] {
	owners := &list[ownerOf]{keep: keepOwner, same: func(a, b ownerOf) bool { return equal(a.Selector, b.Selector) }, changed: s.signal}
	s.owners = append(s.owners, owners)
	add(s, newWatcher(name, s.config.Client, r, "", expected, owners), owners.isSynced)
	return owners
}

// splitOf makes a split: what of the mesh's own namespace is kept, and then what of all others.
func splitOf[T named](
	namespace string,
	mesh func(any) (T, bool), sameMesh func(a, b T) bool, meshChanged func(),
	others func(any) (T, bool), same func(a, b T) bool, changed func(),
) split[T] {
	return split[T]{
		namespace: namespace,
		mesh:      &list[T]{keep: mesh, same: sameMesh, changed: meshChanged},
		others:    &list[T]{keep: others, same: same, changed: changed},
	}
}

// renew is for changes of what a topology is made of.
func (s *Source) renew() {
	s.version.Add(1)
	s.signal()
}

// signal tells the controller that there is something new, once there is a whole snapshot.
func (s *Source) signal() {
	select {
	case <-s.ready:
	default:
		return
	}
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Changed is signalled, with capacity one, after objects changed, and not before all kinds were read.
func (s *Source) Changed() <-chan struct{} { return s.changed }

// Ready is closed when all kinds were read.
func (s *Source) Ready() <-chan struct{} { return s.ready }

// Run watches the cluster until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	var g sync.WaitGroup
	defer g.Wait()
	for _, w := range s.watchers {
		g.Go(func() { w.run(ctx) })
	}
	for _, w := range s.smi {
		g.Go(func() { w.run(ctx) })
	}
	if s.waitSynced(ctx) {
		close(s.ready)
		s.signal()
	}
	<-ctx.Done()
	return nil
}

func (s *Source) waitSynced(ctx context.Context) bool {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	patience := time.NewTimer(s.config.Patience)
	defer patience.Stop()
	waited := false
	for !s.all() || !waited && !s.allSMI() {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		case <-patience.C:
			waited = true
			s.config.Log.Warn("not everything could be read in time", "err", s.Waiting())
		}
	}
	return true
}

func (s *Source) all() bool {
	return !slices.ContainsFunc(s.synced, func(synced func() bool) bool { return !synced() })
}

func (s *Source) allSMI() bool {
	return !slices.ContainsFunc(s.smi, func(w *smiWatch) bool { return !w.synced() })
}

// Waiting says which kinds have not been read yet, and why if that is known; nil if all have.
func (s *Source) Waiting() error {
	var waiting []string
	for i, w := range s.watchers {
		if s.synced[i]() {
			continue
		}
		if _, err := w.state(); err != nil {
			waiting = append(waiting, fmt.Sprintf("%s (%v)", w.name, err))
		} else {
			waiting = append(waiting, w.name)
		}
	}
	for _, w := range s.smi {
		if !w.synced() {
			waiting = append(waiting, w.plural)
		}
	}
	if len(waiting) == 0 {
		return nil
	}
	return fmt.Errorf("waiting for %s", strings.Join(waiting, ", "))
}

// Snapshot returns the objects as they are now.
func (s *Source) Snapshot() controller.Snapshot {
	// Read before the objects: they may be newer than it says, never older.
	out := controller.Snapshot{Version: s.version.Load() + 1, Shadow: s.shadows(), Proxies: s.proxies(), Bypass: s.bypass(), Replicas: s.replicas()}
	state := s.stateMap()
	out.LeaderRecorded, out.ReplicaRecorded = state.has(status.LeaderKey), state.has(status.ReplicaKey(s.config.Pod))
	r := &out.Resources
	r.Services, r.EndpointSlices, r.Pods = s.services.all(), s.endpoints.others.all(), s.pods.all()
	r.Nodes, r.Namespaces, r.ServiceAccounts = s.nodes.all(), s.namespaces.all(), s.accounts.all()
	r.SMI, r.Undecodable = s.smiObjects()
	out.Policies = s.policies.all()
	for _, l := range s.owners {
		for _, o := range l.all() {
			out.Owners = append(out.Owners, o.Owner)
		}
	}
	for _, c := range s.cidrs.all() {
		for _, text := range c.Spec.CIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				out.ServiceCIDRs = append(out.ServiceCIDRs, p)
			}
		}
	}
	return out
}

func (s *Source) smiObjects() (smi.Objects, []problem.Problem) {
	var objects smi.Objects
	var problems []problem.Problem
	for _, w := range s.smi {
		for _, d := range w.objects.all() {
			objects.Add(d.object)
			problems = append(problems, d.problems...)
		}
		problems = append(problems, w.unread()...)
	}
	objects.Sort()
	slices.SortFunc(problems, problem.Problem.Compare)
	return objects, problems
}

// shadows are the mesh addresses as the cluster holds them.
func (s *Source) shadows() shadow.State {
	var out shadow.State
	for _, svc := range s.services.mesh.all() {
		if shadow.OurService(svc) {
			out.Services = append(out.Services, svc)
		}
	}
	for _, sl := range s.endpoints.mesh.all() {
		if shadow.OurSlice(sl) {
			out.Slices = append(out.Slices, sl)
		}
	}
	return out
}
