package kube

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/corefile"
	"github.com/tulle-mesh/tulle/internal/problem"
)

// bubble runs a test of a sim with time of its own.
func bubble(t *testing.T, files map[string]string, test func(t *testing.T, s *sim)) {
	synctest.Test(t, func(t *testing.T) {
		test(t, newSim(t, files))
	})
}

func plainFiles() map[string]string { return map[string]string{"Corefile": simCorefile} }

func reasons(m *DNSManager) string {
	var out []string
	for _, p := range m.State().Problems() {
		out = append(out, string(p.Reason))
	}
	return strings.Join(out, " ")
}

// Whoever waits for DNS must not take "nothing is known" for "nothing is wrong".
func TestDNSNobodyHasLooked(t *testing.T) {
	if st := NewDNSManager(DNSConfig{}).State().Status(); st != nil {
		t.Errorf("before the first look: %+v", st)
	}
	bubble(t, plainFiles(), func(t *testing.T, s *sim) {
		m, stop := s.run(nil)
		s.awaitPhase(m, DNSServed, 2*time.Minute)
		stop()
		s.set("coredns", "Corefile", simCorefile)
		s.do(func() { s.meshDown = true })
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := m.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if st := m.State().Status(); st != nil && st.State == string(DNSServed) {
			t.Errorf("a replica that leads again believes what it saw when it led before: %+v", st)
		}
	})
}

func TestDNSIsPutInPlace(t *testing.T) {
	bubble(t, plainFiles(), func(t *testing.T, s *sim) {
		m, stop := s.run(nil)
		s.await("block", 10*time.Second, s.has)
		want, err := corefile.Block{Mesh: "tulle-system", Zones: []string{"mesh"}, Servers: mustAddrs(simMeshIP), Cache: true}.Patch(simCorefile)
		if got := s.key("coredns", "Corefile"); err != nil || got != want {
			t.Errorf("%v\n%s", err, got)
		}
		if s.tried() != 1 {
			t.Errorf("%d trials before the first write, want 1", s.tried())
		}
		if _, err := s.client.CoreV1().Pods("tulle-system").Get(t.Context(), trialName, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("the trial's pod is left: %v", err)
		}
		if m.State().Phase != DNSPending {
			t.Errorf("phase %s before the pods serve it", m.State().Phase)
		}
		s.awaitPhase(m, DNSServed, time.Minute)
		state := m.State()
		if len(state.Targets) != 1 || len(state.Targets[0].Pods) != 2 || state.Message != "" || len(state.Problems()) != 0 {
			t.Errorf("state: %+v", state)
		}
		if st := state.Status(); st.State != "ok" || st.Kind != "corefile" || st.Object != "ConfigMap kube-system/coredns" || st.Mode != "manage" {
			t.Errorf("status: %+v", st)
		}
		stop()
		writes := 0
		for _, a := range s.client.Actions() {
			if a.GetVerb() == "update" && a.GetResource().Resource == "configmaps" {
				writes++
			}
		}
		if writes != 1 {
			t.Errorf("%d writes of ConfigMaps of the cluster's DNS, want 1", writes)
		}
	})
}

func TestDNSHealsAndGivesUp(t *testing.T) {
	bubble(t, plainFiles(), func(t *testing.T, s *sim) {
		m, _ := s.run(nil)
		s.awaitPhase(m, DNSServed, 2*time.Minute)
		for i := range 5 {
			s.set("coredns", "Corefile", simCorefile)
			if took := s.await("the block is put back", 10*time.Second, s.has); took > 5*time.Second {
				t.Errorf("put back after %s", took)
			}
			if i == 0 && s.tried() != 1 {
				t.Errorf("what had passed its trial was tried again")
			}
			s.awaitPhase(m, DNSServed, 2*time.Minute)
		}
		s.set("coredns", "Corefile", simCorefile)
		s.awaitPhase(m, DNSFighting, 10*time.Second)
		pause(t.Context(), time.Hour)
		if s.has() || m.State().Phase != DNSFighting || reasons(m) != string(problem.DNSFighting) {
			t.Errorf("an hour later: block there: %v, %s", s.has(), m.State().Phase)
		}
		b := corefile.Block{Mesh: "tulle-system", Zones: []string{"mesh"}, Servers: mustAddrs(simMeshIP), Cache: true}
		text, _ := b.Patch(simCorefile)
		s.set("coredns", "Corefile", text)
		s.awaitPhase(m, DNSServed, 2*time.Minute)
		s.set("coredns", "Corefile", simCorefile)
		s.await("the block is kept again", 10*time.Second, s.has)
	})
}

func TestDNSStaysStoppedWithANewLeader(t *testing.T) {
	bubble(t, plainFiles(), func(t *testing.T, s *sim) {
		m, stop := s.run(nil)
		for range 6 {
			s.await("block", time.Minute, s.has)
			s.set("coredns", "Corefile", simCorefile)
		}
		s.awaitPhase(m, DNSFighting, 10*time.Second)
		stop()
		next, _ := s.run(nil)
		s.awaitPhase(next, DNSFighting, 10*time.Second)
		if s.has() {
			t.Error("the next leader put the block back")
		}
	})
}

// TestDNSNamespaceThatComesLater is reported; the block stays, for the names that are in use.
func TestDNSNamespaceThatComesLater(t *testing.T) {
	bubble(t, plainFiles(), func(t *testing.T, s *sim) {
		m, _ := s.run(nil)
		s.awaitPhase(m, DNSServed, 2*time.Minute)
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "mesh"}}
		if _, err := s.client.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		s.awaitPhase(m, DNSRefused, time.Minute)
		if !s.has() || reasons(m) != string(problem.DNSRefused) {
			t.Errorf("block there: %v, %+v", s.has(), m.State())
		}
	})
}

func TestNameservers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte("search a b\nnameserver 10.96.0.10\n# nameserver 1.1.1.1\nnameserver fd00::10\nnameserver x\noptions ndots:5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := nameservers(path); !slices.Equal(got, mustAddrs("10.96.0.10", "fd00::10")) {
		t.Errorf("got %v", got)
	}
	if got := nameservers(path + ".none"); got != nil {
		t.Errorf("got %v of nothing", got)
	}
}

func TestDNSEditsAreUndone(t *testing.T) {
	bubble(t, plainFiles(), func(t *testing.T, s *sim) {
		m, _ := s.run(nil)
		s.awaitPhase(m, DNSServed, 2*time.Minute)
		good := s.key("coredns", "Corefile")
		s.set("coredns", "Corefile", strings.Replace(good, simMeshIP, "192.0.2.1", 1))
		s.await("the edit is undone", 5*time.Second, func() bool { return s.key("coredns", "Corefile") == good })
		mine := good + "example.org {\n    whoami\n}\n"
		s.set("coredns", "Corefile", mine)
		pause(t.Context(), 5*time.Minute)
		if got := s.key("coredns", "Corefile"); got != mine {
			t.Errorf("somebody else's server block was touched:\n%s", got)
		}
	})
}

func TestDNSBrokenClusterIsUndone(t *testing.T) {
	bubble(t, plainFiles(), func(t *testing.T, s *sim) {
		var broke time.Time
		s.onReload = func(address, text string) {
			if s.deaf[address] = strings.Contains(text, "mesh"); s.deaf[address] {
				broke = time.Now()
			}
		}
		m, _ := s.run(nil)
		s.await("block", 10*time.Second, s.has)
		s.await("undone", 3*time.Minute, func() bool { return !s.has() })
		if took := time.Since(broke); took > time.Minute {
			t.Errorf("undone %s after the pods broke", took)
		}
		if got := s.key("coredns", "Corefile"); got != simCorefile {
			t.Errorf("after undoing:\n%s", got)
		}
		if s.awaitPhase(m, DNSUndone, 5*time.Second); reasons(m) != string(problem.DNSUndone) || !strings.Contains(m.State().Message, "stopped answering") {
			t.Errorf("%s: %s", reasons(m), m.State().Message)
		}
		s.await("CoreDNS has recovered", time.Minute, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return !s.deaf["10.1.0.2"] })
		s.do(func() { s.onReload = nil })
		took := s.await("tried again", 15*time.Minute, s.has)
		if took < 8*time.Minute {
			t.Errorf("tried again after %s", took)
		}
		s.awaitPhase(m, DNSServed, 2*time.Minute)
	})
}

func TestDNSCrashIsUndone(t *testing.T) {
	bubble(t, plainFiles(), func(t *testing.T, s *sim) {
		m, _ := s.run(nil)
		s.await("block", 10*time.Second, s.has)
		p, _ := s.client.CoreV1().Pods("kube-system").Get(t.Context(), "coredns-a", metav1.GetOptions{})
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{
			State:                corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
			LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 2, FinishedAt: metav1.NewTime(time.Now().Add(2 * time.Second)), Message: "boom"}},
		}}
		if _, err := s.client.CoreV1().Pods("kube-system").UpdateStatus(t.Context(), p, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if took := s.await("undone", time.Minute, func() bool { return !s.has() }); took > 10*time.Second {
			t.Errorf("undone after %s", took)
		}
		if s.awaitPhase(m, DNSUndone, 5*time.Second); !strings.Contains(m.State().Message, "coredns-a crashes: exit code 2 boom") {
			t.Error(m.State().Message)
		}
	})
}

func TestDNSNeverTakenUpIsUndone(t *testing.T) {
	bubble(t, plainFiles(), func(t *testing.T, s *sim) {
		s.do(func() { s.lag = time.Hour })
		m, _ := s.run(nil)
		s.await("block", 10*time.Second, s.has)
		took := s.await("undone", 5*time.Minute, func() bool { return !s.has() })
		if took < 3*time.Minute-5*time.Second || took > 4*time.Minute {
			t.Errorf("undone after %s", took)
		}
		s.awaitPhase(m, DNSUndone, 5*time.Second)
	})
}

func TestDNSOldBlockOutlivesAnOutage(t *testing.T) {
	bubble(t, plainFiles(), func(t *testing.T, s *sim) {
		m, stop := s.run(nil)
		s.awaitPhase(m, DNSServed, 2*time.Minute)
		s.do(func() { s.meshDown = true })
		s.awaitPhase(m, DNSNotServed, time.Minute)
		s.do(func() { s.deaf["10.1.0.2"], s.deaf["10.1.0.3"] = true, true })
		pause(t.Context(), 10*time.Minute)
		stop()
		next, _ := s.run(nil)
		s.awaitPhase(next, DNSNotServed, time.Minute)
		pause(t.Context(), 10*time.Minute)
		if !s.has() {
			t.Error("the block was taken out although it had been served")
		}
		s.do(func() { s.meshDown = false; clear(s.deaf) })
		s.awaitPhase(next, DNSServed, time.Minute)
	})
}

func TestDNSWaitsForBothSides(t *testing.T) {
	bubble(t, plainFiles(), func(t *testing.T, s *sim) {
		s.do(func() { s.meshDown = true })
		m, _ := s.run(nil)
		pause(t.Context(), 10*time.Minute)
		if s.has() || m.State().Phase != DNSPending || !strings.Contains(m.State().Message, "mesh DNS") {
			t.Errorf("without a mesh DNS: %+v", m.State())
		}
		s.do(func() { s.meshDown = false; s.deaf["10.1.0.2"], s.deaf["10.1.0.3"] = true, true })
		pause(t.Context(), 10*time.Minute)
		if s.has() || m.State().Phase != DNSPending || !strings.Contains(m.State().Message, "not touched") {
			t.Errorf("with a cluster DNS that is unwell: %+v", m.State())
		}
		s.do(func() { clear(s.deaf) })
		s.await("block", 10*time.Second, s.has)
	})
}

func TestDNSTrialFindsTheFormThatFits(t *testing.T) {
	bubble(t, plainFiles(), func(t *testing.T, s *sim) {
		s.breaks = func(text string) error {
			if strings.Contains(text, "servfail") {
				return errors.New("plugin/cache: unknown property 'servfail'")
			}
			return nil
		}
		m, stop := s.run(nil)
		s.awaitPhase(m, DNSServed, 2*time.Minute)
		if text := s.key("coredns", "Corefile"); strings.Contains(text, "cache") || s.tried() != 2 {
			t.Errorf("%d trials\n%s", s.tried(), text)
		}
		stop()
		s.do(func() { s.breaks = func(string) error { return nil } })
		deployments := s.client.AppsV1().Deployments("kube-system")
		d, _ := deployments.Get(t.Context(), "coredns", metav1.GetOptions{})
		d.Spec.Template.Spec.Containers[0].Image = "registry.k8s.io/coredns/coredns:v2"
		if _, err := deployments.Update(t.Context(), d, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		next, _ := s.run(nil)
		s.await("a newer image gets the cache", time.Minute, func() bool { return strings.Contains(s.key("coredns", "Corefile"), "servfail") })
		s.awaitPhase(next, DNSServed, 2*time.Minute)
	})
}

func TestDNSBadNeighbour(t *testing.T) {
	const bad = simCorefile + "corp.example {\n    nosuchplugin\n}\n"
	bubble(t, map[string]string{"Corefile": bad}, func(t *testing.T, s *sim) {
		s.breaks = func(text string) error {
			if strings.Contains(text, "nosuchplugin") {
				return errors.New("Corefile:8 - Error during parsing: Unknown directive 'nosuchplugin'")
			}
			return nil
		}
		s.do(func() { s.loaded["10.1.0.2"], s.loaded["10.1.0.3"] = simCorefile, simCorefile })
		m, _ := s.run(nil)
		s.awaitPhase(m, DNSRefused, time.Minute)
		if msg := m.State().Message; !strings.Contains(msg, "nosuchplugin") || !strings.Contains(msg, "even without") || reasons(m) != string(problem.DNSRefused) {
			t.Error(msg)
		}
		if s.key("coredns", "Corefile") != bad {
			t.Error("a configuration that does not start was changed")
		}
		trials := s.tried()
		if pause(t.Context(), 5*time.Minute); s.tried() != trials {
			t.Errorf("the same was tried %d times more", s.tried()-trials)
		}
		s.set("coredns", "Corefile", simCorefile)
		s.awaitPhase(m, DNSServed, 2*time.Minute)
		// The neighbour comes back when the block is there: CoreDNS goes on with what it has, and so do we.
		s.set("coredns", "Corefile", s.key("coredns", "Corefile")+"corp.example {\n    nosuchplugin\n}\n")
		pause(t.Context(), 10*time.Minute)
		if m.State().Phase != DNSServed || !s.has() {
			t.Errorf("%+v", m.State())
		}
		s.set("coredns", "Corefile", s.key("coredns", "Corefile")+"corp.example {{{\n")
		s.awaitPhase(m, DNSRefused, time.Minute)
		if !s.has() || !strings.Contains(m.State().Message, "cannot be edited") {
			t.Errorf("%+v", m.State())
		}
	})
}

func TestDNSTrialThatBlamesTheBlock(t *testing.T) {
	bubble(t, plainFiles(), func(t *testing.T, s *sim) {
		s.breaks = func(text string) error {
			if strings.Contains(text, "mesh:53") {
				return errors.New("no mesh here")
			}
			return nil
		}
		m, _ := s.run(nil)
		s.awaitPhase(m, DNSRefused, time.Minute)
		if msg := m.State().Message; s.has() || !strings.Contains(msg, "no mesh here") || strings.Contains(msg, "even without") {
			t.Error(msg)
		}
	})
}

func TestDNSTrialThatCannotRun(t *testing.T) {
	bubble(t, plainFiles(), func(t *testing.T, s *sim) {
		s.do(func() { s.stuck = true })
		m, stop := s.run(nil)
		s.awaitPhase(m, DNSRefused, 2*time.Minute)
		if msg := m.State().Message; s.has() || !strings.Contains(msg, "ErrImagePull") || !strings.Contains(msg, "dns.trial") {
			t.Error(msg)
		}
		stop()
		m, _ = s.run(func(c *DNSConfig) { c.NoTrial = true })
		s.awaitPhase(m, DNSServed, 2*time.Minute)
	})
}

func TestDNSTrialThatServesNothing(t *testing.T) {
	bubble(t, plainFiles(), func(t *testing.T, s *sim) {
		s.deaf[simTrialIP] = true // a NetworkPolicy keeps the controller from it: running has to do
		m, _ := s.run(nil)
		s.awaitPhase(m, DNSServed, 2*time.Minute)
	})
}

func TestDNSWithoutReload(t *testing.T) {
	files := map[string]string{"Corefile": strings.Replace(simCorefile, "    reload\n", "", 1)}
	bubble(t, files, func(t *testing.T, s *sim) {
		m, stop := s.run(nil)
		s.awaitPhase(m, DNSNeedsRestart, time.Minute)
		if msg := m.State().Message; !strings.Contains(msg, "kubectl -n kube-system rollout restart deployment/coredns") {
			t.Error(msg)
		}
		pause(t.Context(), time.Hour)
		if !s.has() {
			t.Error("the block was taken out although nobody had read it")
		}
		stop()
		m, _ = s.run(func(c *DNSConfig) { c.Restart = true })
		s.await("restart", time.Minute, func() bool {
			d, _ := s.client.AppsV1().Deployments("kube-system").Get(t.Context(), "coredns", metav1.GetOptions{})
			return d.Spec.Template.Annotations["tulle.dev/restarted-at"] != ""
		})
		s.do(func() {
			text := s.key("coredns", "Corefile")
			s.loaded["10.1.0.2"], s.loaded["10.1.0.3"] = text, text
		})
		s.awaitPhase(m, DNSServed, time.Minute)
	})
}

func TestDNSRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*sim)
		phase  DNSPhase
		says   string
	}{
		"taken": {
			func(s *sim) { s.set("coredns", "Corefile", simCorefile+"mesh {\n    forward . 10.9.9.9\n}\n") },
			DNSRefused, "already served by server block mesh (line 7): choose another zone",
		},
		"layout": {func(s *sim) { s.set("coredns", "Corefile", ".:53\nforward . 1.1.1.1\n") }, DNSRefused, "without braces"},
		"namespace": {
			func(s *sim) {
				ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "mesh"}}
				if _, err := s.client.CoreV1().Namespaces().Create(s.t.Context(), ns, metav1.CreateOptions{}); err != nil {
					s.t.Fatal(err)
				}
			},
			DNSRefused, "namespace mesh is called like the end of zone mesh",
		},
		"nothing there": {
			func(s *sim) {
				if err := s.client.AppsV1().Deployments("kube-system").Delete(s.t.Context(), "coredns", metav1.DeleteOptions{}); err != nil {
					s.t.Fatal(err)
				}
			},
			DNSUnsupported, "no Deployment or DaemonSet",
		},
		"unlisted": {
			func(s *sim) {
				d, _ := s.client.AppsV1().Deployments("kube-system").Get(s.t.Context(), "coredns", metav1.GetOptions{})
				d.Spec.Template.Spec.Volumes[0].ConfigMap.Name = "my-coredns"
				if _, err := s.client.AppsV1().Deployments("kube-system").Update(s.t.Context(), d, metav1.UpdateOptions{}); err != nil {
					s.t.Fatal(err)
				}
			},
			DNSRefused, "add {namespace: kube-system, name: my-coredns} to it",
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, plainFiles(), func(t *testing.T, s *sim) {
				c.change(s)
				m, _ := s.run(nil)
				s.awaitPhase(m, c.phase, 10*time.Second)
				if got := m.State().Message; !strings.Contains(got, c.says) {
					t.Errorf("got %q, want %q in it", got, c.says)
				}
				if len(m.State().Problems()) != 1 || s.has() {
					t.Errorf("problems: %v, block there: %v", m.State().Problems(), s.has())
				}
				if found := s.access().Preflight(t.Context(), []string{"mesh"}, "cluster.local"); !failsWith(found, c.says) {
					t.Errorf("preflight: %v", found)
				}
			})
		})
	}
}

func failsWith(found []DNSFinding, says string) bool {
	for _, f := range found {
		if f.Level == DNSFail && strings.Contains(f.Message, says) {
			return true
		}
	}
	return false
}

func TestDNSPreflight(t *testing.T) {
	s := newSim(t, plainFiles())
	for _, f := range s.access().Preflight(t.Context(), []string{"mesh", "traefik.mesh"}, "cluster.local") {
		if f.Level != DNSFine {
			t.Errorf("%s: %s", f.Level, f.Message)
		}
	}
	if found := s.access().Preflight(t.Context(), []string{"svc.cluster.local"}, "cluster.local"); !failsWith(found, "overlaps") {
		t.Errorf("%v", found)
	}
	s.set("coredns", "Corefile", strings.Replace(simCorefile, "reload", "log", 1))
	warned := false
	for _, f := range s.access().Preflight(t.Context(), []string{"mesh"}, "cluster.local") {
		warned = warned || f.Level == DNSWarn && strings.Contains(f.Message, "reload")
	}
	if !warned {
		t.Error("a Corefile without reload went unnoticed")
	}
}

func TestDNSPrint(t *testing.T) {
	bubble(t, plainFiles(), func(t *testing.T, s *sim) {
		m, _ := s.run(func(c *DNSConfig) { c.Mode = DNSPrint })
		s.awaitPhase(m, DNSToPaste, 10*time.Second)
		paste := m.State().Targets[0].Paste
		_, block, _ := strings.Cut(paste, ":\n")
		if s.has() || s.tried() != 0 || !strings.HasPrefix(paste, "ConfigMap kube-system/coredns, key Corefile, at the end:\n# BEGIN tulle") {
			t.Errorf("%d trials, paste:\n%s", s.tried(), paste)
		}
		if st := m.State().Status(); !strings.Contains(st.Message, "forward . "+simMeshIP) {
			t.Errorf("status: %s", st.Message)
		}
		s.set("coredns", "Corefile", simCorefile+block)
		s.awaitPhase(m, DNSNotServed, 10*time.Second)
		s.awaitPhase(m, DNSServed, 2*time.Minute)
	})
}

func TestDNSOff(t *testing.T) {
	bubble(t, plainFiles(), func(t *testing.T, s *sim) {
		m, stop := s.run(func(c *DNSConfig) { c.Mode = DNSOff })
		s.awaitPhase(m, DNSIsOff, time.Second)
		stop()
		if len(s.client.Actions()) != 0 {
			t.Errorf("off means nothing is asked: %v", s.client.Actions())
		}
	})
}
