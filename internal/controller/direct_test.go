package controller

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/bypass"
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/status"
)

// fenced is a world with a policy engine, or without one.
type fenced struct {
	*world
	mu       sync.Mutex
	engine   bool
	dead     bool // nothing answers at all
	leaky    bool // the engine overlooks the application's pod
	refuse   error
	dialled  map[netip.AddrPort]int
	policies map[string]*networkingv1.NetworkPolicy
}

// newFenced has one enforced workload, shop/web, of a Deployment with one pod, and the chart's own policy.
func newFenced(t *testing.T) *fenced {
	f := &fenced{world: newWorld(t), dialled: map[netip.AddrPort]int{}, policies: map[string]*networkingv1.NetworkPolicy{}}
	port, name, ready := int32(8080), "http", false
	f.policies["tulle-system/tulle-proxy"] = &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "tulle-system", Name: "tulle-proxy"}}
	f.services("web")
	f.change(func(s *Snapshot) {
		r := &s.Resources
		r.Namespaces = []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"tulle.dev/access": "enforce", bypass.Label: "close"}}}}
		r.Pods = []*corev1.Pod{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", Labels: map[string]string{"app": "web"}},
			Spec:       corev1.PodSpec{NodeName: "n1", ServiceAccountName: "web"},
			Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.1.0.1"},
		}}
		// It is not ready, and may be called all the same.
		r.EndpointSlices = []*discoveryv1.EndpointSlice{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
			Ports:      []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
			Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{"10.1.0.1"}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
		}}
		s.Owners = []*bypass.Owner{{Kind: "Deployment", Namespace: "shop", Name: "web", Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}}
		s.Policies = f.list()
	})
	return f
}

func (f *fenced) list() []*networkingv1.NetworkPolicy {
	var out []*networkingv1.NetworkPolicy
	for _, p := range f.policies {
		out = append(out, p)
	}
	return out
}

func (f *fenced) run(t *testing.T) {
	c := f.controller()
	c.Bypass, c.Policies, c.Dial = bypass.Config{Namespace: "tulle-system"}, f, f.dial
	ctx, cancel := context.WithCancel(t.Context())
	var g sync.WaitGroup
	g.Go(func() { _ = c.Run(ctx) })
	g.Go(func() { _ = c.Lead(ctx) })
	t.Cleanup(func() { cancel(); g.Wait() })
}

// dial is as the network is: the mesh DNS is for everybody, the rest only without an engine.
func (f *fenced) dial(_ context.Context, a netip.AddrPort) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dialled[a]++
	switch {
	case f.dead:
		return false
	case a.Port() == openPort:
		return true
	case a.Port() == 8080 && f.leaky:
		return true
	}
	return !f.engine
}

func (f *fenced) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fenced) tried(address string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dialled[netip.MustParseAddrPort(address)]
}

func (f *fenced) ApplyPolicies(_ context.Context, c bypass.Changes) error {
	if f.refuse != nil {
		return manyErrors{&PolicyError{Namespace: "shop", Name: "x", Op: "create NetworkPolicy", Err: f.refuse}}
	}
	for _, p := range slices.Concat(c.Create, c.Update) {
		f.policies[p.Namespace+"/"+p.Name] = p
	}
	for _, p := range c.Delete {
		delete(f.policies, p.Namespace+"/"+p.Name)
	}
	f.change(func(s *Snapshot) { s.Policies = f.list() })
	return nil
}

// said is what was written down last.
func (f *fenced) said() []status.Direct {
	f.world.mu.Lock()
	defer f.world.mu.Unlock()
	if len(f.leader) == 0 {
		return nil
	}
	return f.leader[len(f.leader)-1].Direct
}

func (f *fenced) want(t *testing.T, state, text string) {
	t.Helper()
	said := f.said()
	if len(said) != 1 || said[0].State != state || !strings.Contains(strings.Join(said[0].Why, "; "), text) {
		t.Errorf("it says %+v, want shop/web as %s (%s)", said, state, text)
	}
}

func TestGuardWithoutAnEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFenced(t)
		f.run(t)
		pass(10 * time.Second)
		if len(f.policies) != 2 {
			t.Errorf("there are %d policies, want the chart's and the workload's", len(f.policies))
		}
		f.want(t, "Bypassable", "NetworkPolicies are not enforced on n1")
		if f.tried("10.1.0.1:8080") != 0 {
			t.Error("the application was bothered although it is known that nothing is enforced")
		}
		f.set(func() { f.engine = true })
		pass(10 * time.Second)
		f.want(t, "Enforced", "")
		f.set(func() { f.leaky = true })
		pass(10 * time.Second)
		f.want(t, "Bypassable", "TCP port 8080 of web-1 was reached although no NetworkPolicy admits it")
	})
}

// That nothing answers shows nothing, as long as it is not known that something would.
func TestGuardNeedsAControl(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFenced(t)
		f.dead = true
		f.run(t)
		pass(10 * time.Second)
		f.want(t, "Bypassable", "the proxy of n1 (10.0.1.1) can't be reached to try NetworkPolicies")
		f.change(func(s *Snapshot) { s.Proxies = nil })
		pass(10 * time.Second)
		f.want(t, "Bypassable", "n1 has no ready proxy")
		delete(f.policies, "tulle-system/tulle-proxy")
		f.change(func(s *Snapshot) { s.Policies = f.list() })
		pass(10 * time.Second)
		f.want(t, "Bypassable", "networkPolicy.enabled is off")
	})
}

// What can't be tried is told as well.
func TestGuardOfWhatIsNoPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFenced(t)
		f.change(func(s *Snapshot) { s.Resources.Pods = nil })
		f.run(t)
		pass(10 * time.Second)
		f.want(t, "Bypassable", "endpoints are no pods")
	})
}

func TestGuardOpensAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFenced(t)
		f.engine = true
		f.run(t)
		pass(10 * time.Second)
		f.want(t, "Enforced", "")
		relabel := func(mode string) {
			f.change(func(s *Snapshot) {
				n := s.Resources.Namespaces[0].DeepCopy()
				n.Labels[bypass.Label] = mode
				s.Resources.Namespaces = []*corev1.Namespace{n}
			})
		}
		relabel("report")
		pass(settle / 2)
		if len(f.policies) != 2 {
			t.Error("the policy went at once: a moment without endpoints would open the workload")
		}
		relabel("close")
		pass(settle)
		relabel("report")
		pass(settle / 2)
		if len(f.policies) != 2 {
			t.Error("the policy went although it was wanted a moment ago")
		}
		pass(10 * time.Second)
		if len(f.policies) != 1 {
			t.Errorf("there are %d policies, want only the chart's", len(f.policies))
		}
		f.want(t, "Bypassable", "no NetworkPolicy closes TCP port 8080")
		// Where nothing is protected, nothing is tried.
		f.change(func(s *Snapshot) { s.Resources.Namespaces = nil })
		pass(10 * time.Second)
		if said := f.said(); len(said) != 0 {
			t.Errorf("it says %+v of what is not protected", said)
		}
		was := f.tried("10.0.1.1:15021")
		pass(time.Minute)
		if now := f.tried("10.0.1.1:15021"); now != was {
			t.Errorf("%d dials in a minute in which nothing was protected", now-was)
		}
	})
}

func TestGuardTellsWhatIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFenced(t)
		f.refuse = errors.New("forbidden")
		f.run(t)
		pass(10 * time.Second)
		got := f.problemsOf(problem.PolicyNotWritten)
		if len(got) != 1 || got[0].Object.Namespace != "shop" || !strings.Contains(got[0].Message, "forbidden") {
			t.Errorf("problems: %v", got)
		}
	})
}
