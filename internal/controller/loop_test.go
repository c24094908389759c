package controller

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/status"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// in runs a test where time is simulated.
func in(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newWorld(t)) })
}

// pass lets simulated time pass, and everything happen that does meanwhile.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestNothingIsPublishedBeforeThereIsASnapshot(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		c := w.run(true)
		signal(w.proxies)
		pass(time.Hour)
		if w.times() != 0 || w.count(&w.applied) != 0 || c.Ready() {
			t.Errorf("published %d times, applied %d times", w.times(), w.applied)
		}
		w.services("web")
		pass(time.Millisecond)
		if w.times() != 1 || !c.Ready() {
			t.Errorf("published %d times", w.times())
		}
	})
}

func TestBurstIsOneRound(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.run(false)
		w.services("web")
		pass(time.Second)
		before := w.times()
		for range 9 {
			w.services("web")
			pass(5 * time.Millisecond)
		}
		pass(time.Second)
		if got := w.times() - before; got != 1 {
			t.Errorf("%d rounds", got)
		}
	})
}

func TestEndlessChangesDoNotDelayForever(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.run(false)
		w.services("web")
		pass(time.Second)
		before := w.times()
		for range 400 {
			w.services("web")
			pass(5 * time.Millisecond)
		}
		if got := w.times() - before; got < 15 || got > 25 {
			t.Errorf("%d rounds in 2 s of changes every 5 ms", got)
		}
	})
}

func TestWhatIsNoNewsIsNotPublished(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		c := w.run(true)
		w.services("web")
		pass(time.Second)
		published, rounds := w.times(), c.rounds.Load()
		// Slices of mesh addresses are written, as when a proxy is replaced; other Services still lead to the old one.
		w.mu.Lock()
		for name, s := range w.slices {
			s = s.DeepCopy()
			s.ResourceVersion = "new"
			w.slices[name] = s
		}
		w.mu.Unlock()
		signal(w.changed)
		pass(time.Second)
		if c.rounds.Load() == rounds || w.times() != published {
			t.Errorf("%d rounds, published %d times", c.rounds.Load()-rounds, w.times()-published)
		}
	})
}

func TestOnlyTheLeaderWrites(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.run(false)
		w.services("web")
		pass(time.Minute)
		if w.count(&w.applied) != 0 || len(w.leader) != 0 || w.reported != nil {
			t.Errorf("applied %d times, recorded %d times", w.applied, len(w.leader))
		}
		if len(w.replica) == 0 {
			t.Error("the replica's own state was not written down")
		}
	})
}

func TestServicesGetAddressesAndThenThereIsRest(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.run(true)
		w.services("api", "web")
		pass(time.Second)
		for _, name := range []string{"api", "web"} {
			if a, _ := w.addresses(name); len(a) != 1 {
				t.Errorf("%s has %v", name, a)
			}
		}
		applied, published := w.count(&w.applied), w.times()
		pass(time.Hour)
		if w.count(&w.applied) != applied || w.times() != published {
			t.Errorf("%d writes and %d rounds in an hour without changes", w.applied-applied, w.times()-published)
		}
		if w.writes != 4 {
			t.Errorf("%d writes", w.writes)
		}
	})
}

func TestSlowWritesDoNotDelayConfig(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.writesTake(time.Minute)
		w.run(true)
		w.services("api", "web")
		pass(time.Second)
		w.services("web")
		pass(200 * time.Millisecond)
		if _, ok := w.addresses("api"); ok {
			t.Error("the config of a service that is gone waits for writes")
		}
		w.writesTake(0)
		pass(2 * time.Minute)
		if got := w.shadowNames(); len(got) != 1 {
			t.Errorf("shadows: %v", got)
		}
	})
}

func (w *world) shadowNames() (out []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name := range w.shadows {
		out = append(out, name)
	}
	return out
}

func TestPanicKeepsTheConfig(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		c := w.run(true)
		w.services("web")
		pass(5 * time.Second)
		published := w.times()
		w.change(func(s *Snapshot) { s.Resources.Services = append([]*corev1.Service{nil}, s.Resources.Services...) })
		pass(5 * time.Second)
		if a, ok := w.addresses("web"); !ok || len(a) == 0 || w.times() != published {
			t.Errorf("published %d times, web has %v", w.times(), a)
		}
		got := w.problemsOf(problem.InternalError)
		if len(got) != 1 || strings.Contains(got[0].Message, "goroutine") || !strings.Contains(got[0].Message, "nil pointer") {
			t.Errorf("problems: %v", got)
		}
		applied := w.count(&w.applied)
		w.change(func(*Snapshot) {})
		pass(time.Minute)
		if w.count(&w.applied) != applied || !c.Ready() {
			t.Error("writes without knowing the cluster")
		}
		w.services("api", "web")
		pass(5 * time.Second)
		if a, _ := w.addresses("api"); len(a) == 0 || len(w.problemsOf(problem.InternalError)) != 0 {
			t.Errorf("not mended: %v, %v", a, w.reported)
		}
	})
}

func TestRefusedWriteIsAProblemAndTriedAgain(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		web := shadow.ServiceName(shadow.Unit{Name: topology.Name{Namespace: "shop", Name: "web"}})
		w.refuse[web] = errors.New("range is full")
		w.run(true)
		w.services("api", "web")
		pass(5 * time.Second)
		got := w.problemsOf(problem.AddressNotWritten)
		if len(got) != 1 || got[0].Object.Name != "web" || got[0].Object.UID != "uid-web" || !strings.Contains(got[0].Message, "range is full") {
			t.Errorf("problems: %v", w.reported)
		}
		if a, _ := w.addresses("api"); len(a) == 0 {
			t.Error("another service waits")
		}
		before := w.count(&w.applied)
		for range 100 {
			w.services("api", "web")
			pass(time.Second)
		}
		if n := w.count(&w.applied) - before; n < 3 || n > 8 {
			t.Errorf("tried %d times in 100 s", n)
		}
		w.mu.Lock()
		delete(w.refuse, web)
		w.mu.Unlock()
		pass(time.Minute)
		if a, _ := w.addresses("web"); len(a) == 0 || len(w.problemsOf(problem.AddressNotWritten)) != 0 {
			t.Errorf("web has %v, problems %v", a, w.reported)
		}
	})
}

func TestOvertakenWritesAreNotAHotLoop(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.overtaken = true
		w.run(true)
		w.services("web")
		pass(10 * time.Second)
		if n := w.count(&w.applied); n < 5 || n > 12 {
			t.Errorf("tried %d times in 10 s", n)
		}
	})
}

func TestDeletedStateIsWrittenDownAgain(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.run(true)
		w.services("web")
		pass(10 * time.Second)
		leader, replica := len(w.leader), len(w.replica)
		w.change(func(s *Snapshot) { s.LeaderRecorded, s.ReplicaRecorded = false, false })
		pass(10 * time.Second)
		if len(w.leader) <= leader || len(w.replica) <= replica {
			t.Errorf("written %d and %d times", len(w.leader)-leader, len(w.replica)-replica)
		}
	})
}

func TestRefusalOfAProxyIsAProblem(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.run(true)
		w.services("web")
		pass(time.Second)
		key := configv1.Key{Type: configv1.ServiceType, Name: "shop/web"}
		refused := status.Refusal{Type: "tulle.config.v1.Service", Name: "shop/web", Version: w.resource(key).Version, Reason: "no such thing"}
		w.connect(status.Proxy{Pod: "p1", Refused: []status.Refusal{refused}}, status.Proxy{Pod: "p2", Refused: []status.Refusal{refused}})
		pass(5 * time.Second)
		got := w.problemsOf(problem.RefusedByProxy)
		if len(got) != 1 || got[0].Object.UID != "uid-web" || got[0].Message != "proxy p1 and others: no such thing" {
			t.Errorf("problems: %v", w.reported)
		}
		// The proxies of another replica, and a version that is no longer served.
		old := refused
		old.Version = "old"
		w.connect(status.Proxy{Pod: "p1", Refused: []status.Refusal{old}})
		w.change(func(s *Snapshot) {
			s.Replicas = []status.Replica{{Pod: "c-2", Proxies: []status.Proxy{{Pod: "p9", Refused: []status.Refusal{refused}}}}}
		})
		pass(5 * time.Second)
		if got := w.problemsOf(problem.RefusedByProxy); len(got) != 1 || got[0].Message != "proxy p9: no such thing" {
			t.Errorf("problems: %v", got)
		}
	})
}

func TestBusyPortIsReplacedAndAvoided(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.run(true)
		w.services("web")
		pass(time.Second)
		busy := w.targetPort("web")
		version := w.resource(configv1.Key{Type: configv1.ServiceType, Name: "shop/web"}).Version
		w.connect(status.Proxy{Pod: "p1", Refused: []status.Refusal{{Type: "tulle.config.v1.Service", Name: "shop/web", Version: version, Reason: "busy", BusyPort: busy}}})
		pass(time.Second)
		other := w.targetPort("web")
		if other == busy || other == 0 {
			t.Errorf("target port is %d, was %d", other, busy)
		}
		w.connect(status.Proxy{Pod: "p1"})
		w.services()
		pass(time.Second)
		w.services("web")
		pass(time.Second)
		if got := w.targetPort("web"); got == busy {
			t.Errorf("port %d is assigned again at once", got)
		}
		if got := w.problemsOf(problem.RefusedByProxy); len(got) != 0 {
			t.Errorf("problems: %v", got)
		}
	})
}

func TestTimeMovesAddresses(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		c := w.controller()
		c.Shadow.SharedHTTP = true
		go func() { _ = c.Run(t.Context()) }()
		go func() { _ = c.Lead(t.Context()) }()
		w.services("web")
		pass(5 * time.Second)
		shared, _ := w.addresses("web")
		w.change(func(s *Snapshot) {
			s.Resources.Services[0].Annotations = map[string]string{"tulle.dev/address": "dedicated"}
		})
		pass(5 * time.Second)
		if a, _ := w.addresses("web"); !slices.Equal(a, shared) {
			t.Errorf("moved at once from %v to %v", shared, a)
		}
		pass(20 * time.Second)
		if a, _ := w.addresses("web"); slices.Equal(a, shared) || len(a) == 0 {
			t.Errorf("did not move from %v", a)
		}
	})
}

func TestStateIsWrittenDownWhenItChanges(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.run(true)
		w.services("api", "web")
		w.connect(status.Proxy{Pod: "p1", Node: "n1"})
		pass(10 * time.Second)
		w.connect(status.Proxy{Pod: "p1", Node: "n1", Current: true})
		pass(10 * time.Second)
		last := w.leader[len(w.leader)-1]
		if a := last.Addresses; a.Services != 2 || a.Assigned != 2 || a.Dedicated != 2 || a.Nodes != 1 || a.Ready != 1 || last.Pod != "c-1" || last.ConfigVersion == "" {
			t.Errorf("leader: %+v", last)
		}
		r := w.replica[len(w.replica)-1]
		if len(r.Proxies) != 1 || !r.Proxies[0].Current || r.ConfigVersion != last.ConfigVersion {
			t.Errorf("replica: %+v", r)
		}
		leader, replica := len(w.leader), len(w.replica)
		for range 10 {
			w.services("api", "web")
			pass(10 * time.Second)
		}
		if len(w.leader) != leader || len(w.replica) != replica {
			t.Errorf("written %d and %d times without news", len(w.leader)-leader, len(w.replica)-replica)
		}
	})
}

func TestProxiesThatCatchUpAreNoticed(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.run(false)
		w.services("web")
		w.connect(status.Proxy{Pod: "p1"})
		pass(10 * time.Second)
		w.mu.Lock()
		w.connected = []status.Proxy{{Pod: "p1", Current: true}} // without a signal
		w.mu.Unlock()
		pass(10 * time.Second)
		if r := w.replica[len(w.replica)-1]; !r.Proxies[0].Current {
			t.Errorf("replica: %+v", r)
		}
	})
}

func TestTheKillSwitch(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.run(false)
		w.services("web")
		w.change(func(s *Snapshot) { s.Bypass = true })
		pass(time.Second)
		if m, _ := w.resource(configv1.Key{Type: configv1.MeshType, Name: "mesh"}).Message.(*configv1.Mesh); !m.DnsBypass {
			t.Error("the bypass is not on")
		}
	})
}

func TestProxyKnowsWhetherItIsInSlices(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.run(true)
		w.services("web")
		pass(time.Second)
		inSlices := func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			m, _ := w.perProxy["p1"][0].Message.(*configv1.Proxy)
			return m.InSlices
		}
		if !inSlices() {
			t.Error("p1 is in no slice")
		}
		w.writesTake(10 * time.Second)
		w.change(func(s *Snapshot) {
			p1, p2 := s.Proxies[0], s.Proxies[0]
			p1.Ready, p2.Pod, p2.Addresses = false, "p2", []netip.Addr{p2.Addresses[0].Next()}
			s.Proxies = []shadow.Proxy{p1, p2}
		})
		pass(5 * time.Second)
		if !inSlices() {
			t.Error("p1 is told too early that no address leads to it")
		}
		pass(10 * time.Second)
		if inSlices() {
			t.Error("p1 is never told that no address leads to it")
		}
	})
}

// Identities are renewed at half of their life, and no sooner: without that they would end while pods live.
func TestIdentitiesAreRenewed(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		c := w.run(false)
		w.services("web")
		pass(time.Second)
		expires, published := c.latest.Load().expires, w.times()
		pass(499 * time.Hour)
		if w.times() != published {
			t.Errorf("published %d times before half of the life", w.times()-published)
		}
		pass(2 * time.Hour)
		if got := c.latest.Load().expires.Sub(expires); w.times() != published+1 || got < 499*time.Hour {
			t.Errorf("published %d times, for another %v", w.times()-published, got)
		}
	})
}
