package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/integration/cluster"
	"github.com/tulle-mesh/tulle/integration/images/report"
)

const soakEnv = "TULLE_SOAK"

// TestAddressChurn measures the mesh addresses of 400 services without tulle: stand-ins for the proxies, and for the
// controller that writes their slices. It reports figures rather than judging them; docs/design/addresses.md has those
// that the design rests on.
func TestAddressChurn(t *testing.T) {
	if os.Getenv(soakEnv) == "" || givenKubeconfig() != "" {
		t.Skipf("the measurement of mesh addresses is skipped: set %s=1, as root on Linux, without KUBECONFIG", soakEnv)
	}
	for _, mode := range []string{"nftables", "iptables"} {
		t.Run(mode, func(t *testing.T) {
			e := start(t, place{name: mode, options: cluster.Options{Profile: cluster.Honest, ProxyMode: mode}})
			c := &churn{env: e, namespace: e.namespace(t, "e2e-churn")}
			c.deploy(t)
			t.Run("create", c.create)
			t.Run("follow", c.followRules)
			for _, qps := range []float32{50, 200} {
				t.Run(fmt.Sprintf("rolling update, %v writes a second", qps), func(t *testing.T) { c.roll(t, qps) })
			}
			t.Run("SIGKILL of the process", func(t *testing.T) { c.kill(t, c.killProcess) })
			t.Run("SIGKILL of the pod", func(t *testing.T) { c.kill(t, c.killPod) })
		})
	}
}

type churn struct {
	*env
	namespace string
	urls      []string
}

func (c *churn) deploy(t *testing.T) {
	t.Helper()
	c.apply(t, c.namespace, file(t, "standin.yaml", "$LINGER", "20s"))
	c.rollout(t, c.namespace, "daemonset/standin")
}

// standins is a stand-in controller whose slices already say what is so.
func (c *churn) standin(t *testing.T, qps float32) *standin {
	t.Helper()
	s := newStandin(t, c.env, c.namespace, qps)
	c.eventually(t, "one stand-in per node", func() error {
		pods, err := s.list(t.Context())
		if err != nil {
			return err
		}
		s.current = s.wanted(pods)
		if len(pods) != len(c.clients) || len(s.current) != len(c.clients) {
			return fmt.Errorf("%d pods, %d of them ready", len(pods), len(s.current))
		}
		return nil
	})
	return s
}

func (c *churn) create(t *testing.T) {
	for _, qps := range []float32{50, 400} {
		s := c.standin(t, qps)
		if c.urls != nil {
			if err := s.delete(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, p := range s.current {
				c.eventually(t, "end of the rules", func() error { return c.ruled(t, p.Spec.NodeName, p.Status.PodIP, 0) })
			}
		}
		begin := time.Now()
		urls, err := s.create(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		written := time.Since(begin)
		c.urls = urls
		for _, p := range s.current {
			c.eventually(t, "rules", func() error { return c.ruled(t, p.Spec.NodeName, p.Status.PodIP, churnServices) })
		}
		t.Logf("FIGURE create at %v/s: %d writes in %.1fs; all nodes' rules complete %.1fs after the first write",
			qps, 2*churnServices, written.Seconds(), time.Since(begin).Seconds())
	}
}

// followRules takes one proxy out of all slices and puts it back, and looks at the rules of its node: the others have
// proxies of their own there all the time.
func (c *churn) followRules(t *testing.T) {
	for _, qps := range []float32{50, 200, 1000} {
		s := c.standin(t, qps)
		all := s.current
		for _, step := range []struct {
			what string
			pods []corev1.Pod
			ip   string
		}{{"out", all[1:], all[1].Status.PodIP}, {"back", all, all[0].Status.PodIP}} {
			s.current = step.pods
			begin := time.Now()
			if err := s.write(t.Context()); err != nil {
				t.Fatal(err)
			}
			written := time.Since(begin)
			c.eventually(t, "rules", func() error { return c.ruled(t, all[0].Spec.NodeName, step.ip, churnServices) })
			t.Logf("FIGURE %s at %v/s: %d writes in %.2fs, its node's rules %.2fs after the first, %.2fs after the last",
				step.what, qps, churnServices, written.Seconds(), time.Since(begin).Seconds(), time.Since(begin).Seconds()-written.Seconds())
		}
	}
}

// ruled says whether the rules of a node send that many services to an address.
func (c *churn) ruled(t *testing.T, node, ip string, want int) error {
	list, mark := []string{"nft", "list", "table", "ip", "kube-proxy"}, "dnat to "+ip+":"
	if c.embedded.Options().ProxyMode == "iptables" {
		list, mark = []string{"iptables-save", "-t", "nat"}, "--to-destination "+ip+":"
	}
	out, err := c.embedded.ExecIn(t.Context(), node, list...)
	if err != nil {
		return err
	}
	if got := strings.Count(out, mark); got != want {
		return fmt.Errorf("node %s: %d rules to %s, want %d", node, got, ip, want)
	}
	return nil
}

// under runs something while clients on every node call all services at a constant rate, and a stand-in controller
// keeps the slices.
func (c *churn) under(t *testing.T, s *standin, f func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	followed := make(chan error, 1)
	go func() { followed <- s.follow(ctx) }()
	var loads []*load
	for _, cl := range c.clients {
		loads = append(loads,
			cl.load(t, "new", append([]string{"-rate", "200", "-per-conn", "1", "-c", "1000", "-timeout", "3s"}, c.urls...)...),
			cl.load(t, "kept", "-rate", "100", "-per-conn", "1000000", "-c", "500", "-timeout", "3s", c.urls[7]))
	}
	c.eventually(t, "calls", func() error { return c.clients[0].allOK(t, "get", "-n", "20", c.urls[0]) })
	begin := time.Now()
	f()
	took := time.Since(begin)
	for _, l := range loads {
		sum := l.stop(t)
		t.Logf("FIGURE %s on %s: %s", l.name, l.client.node, figures(sum, begin))
	}
	cancel()
	if err := <-followed; err != nil {
		t.Error(err)
	}
	t.Logf("FIGURE %.1fs in all, %d slice writes", took.Seconds(), s.writes.Load())
}

func figures(s report.Summary, begin time.Time) string {
	out := fmt.Sprintf("%d of %d failed, longest without an answer %.0f ms, max %.0f ms, p99 %.1f ms, by node %v", s.Failed, s.Calls, s.GapMS, s.MaxMS, s.P99MS, s.ByNode)
	if s.Failed > 0 {
		out += fmt.Sprintf(", %v, from %.1fs to %.1fs after the beginning", s.Errors, s.Failures[0].At.Sub(begin).Seconds(), s.LastFailure.Sub(begin).Seconds())
	}
	return out
}

func (c *churn) roll(t *testing.T, qps float32) {
	s := c.standin(t, qps)
	c.under(t, s, func() {
		c.run(t, "-n", c.namespace, "rollout", "restart", "daemonset/standin")
		c.rollout(t, c.namespace, "daemonset/standin")
		c.inARow(t, "end of the old pods", 1, rolloutTimeout, func() error {
			pods, err := s.list(t.Context())
			if err == nil && len(pods) != len(c.clients) {
				err = fmt.Errorf("%d pods", len(pods))
			}
			return err
		})
	})
}

// kill ends a stand-in without warning and waits until all is as before.
func (c *churn) kill(t *testing.T, how func(t *testing.T, pod corev1.Pod)) {
	s := c.standin(t, 200)
	victim := s.current[0]
	c.under(t, s, func() {
		how(t, victim)
		// Over when all are ready again, and every slice has been taken from the victim and given back.
		c.inARow(t, "return of "+victim.Name, 1, rolloutTimeout, func() error {
			pods, err := s.list(t.Context())
			if err == nil && (len(s.wanted(pods)) != len(c.clients) || s.writes.Load() < 2*churnServices) {
				err = fmt.Errorf("%d pods ready, %d slices written", len(s.wanted(pods)), s.writes.Load())
			}
			return err
		})
	})
}

func (c *churn) killProcess(t *testing.T, pod corev1.Pod) {
	ps, err := c.embedded.ContainerProcesses(t.Context(), pod.Namespace, pod.Name, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := ps[0].Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// killPod takes the sandbox along, so that the pod comes back with another address.
func (c *churn) killPod(t *testing.T, pod corev1.Pod) {
	ps, err := c.embedded.PodProcesses(t.Context(), pod.Namespace, pod.Name)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range ps {
		if err := p.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
}
