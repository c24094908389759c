package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tulle-mesh/tulle/integration/images/report"
	"github.com/tulle-mesh/tulle/internal/bypass"
	"github.com/tulle-mesh/tulle/internal/status"
)

// reportedWithin is how soon `tulle status` has to say how things are.
const reportedWithin = 10 * time.Second

// bypassSuite is a protected workload, and those who would like to call it past the mesh.
type bypassSuite struct {
	*env
	ns   string
	pods []pod
	// strangers are pods on every node, of a namespace that is allowed by the mesh, and of the workload's own.
	strangers []client
	scrapers  []client // on every node
	urls      []string // the ways around, by HTTP: first those that keep the caller's address
	addresses []string // the same by TCP
	direct    int      // how many those are
}

// wayAround: with NetworkPolicies that are enforced, nobody reaches a protected workload but through the mesh, and the mesh
// itself works under its own.
func wayAround(t *testing.T, e *env) {
	e.needEmbedded(t)
	s := newBypassSuite(t, e)
	t.Run("before", func(t *testing.T) { s.all(t, "every way is open", s.strangers, len(s.urls), true) })
	t.Run("the plan", s.plan)
	s.mode(t, "close")
	t.Run("the state", func(t *testing.T) {
		s.state(t, bypass.EnforcedExcept, "e2e-scraper (app=client)")
		out, err := e.tulle(t, e.release, "why", "--from", clientNamespace+"/default", "--to", "web.e2e-bypass:80")
		if want := "the way around: e2e-bypass/web is Enforced except e2e-scraper (app=client)"; err != nil || !strings.Contains(out, want) {
			t.Errorf("tulle why says %s (%v), want %q in it", out, err, want)
		}
	})
	t.Run("strangers", func(t *testing.T) { s.all(t, "every way is closed", s.strangers, len(s.urls), false) })
	// A node port hides who calls from other nodes.
	t.Run("an allowed scraper", func(t *testing.T) { s.all(t, "its ways are open", s.scrapers, s.direct, true) })
	t.Run("other ports", s.otherPorts)
	t.Run("the mesh", s.mesh)
	t.Run("a user's own policy", s.allowAll)
	t.Run("a new pod", s.newPod)
	t.Run("the mesh's own pods", s.meshPods)
	t.Run("probes", s.probes)
	t.Run("report again", func(t *testing.T) {
		s.mode(t, "report")
		s.state(t, bypass.Bypassable, "no NetworkPolicy closes TCP port 8080")
		e.eventually(t, "no NetworkPolicy", func() error {
			if out := e.run(t, "-n", s.ns, "get", "networkpolicies", "-o", "name"); out != "" {
				return fmt.Errorf("there are %s", out)
			}
			return nil
		})
		s.all(t, "every way is open", s.strangers, len(s.urls), true)
	})
}

// noEngine: NetworkPolicies that nobody enforces close nothing, and the mesh says so.
func noEngine(t *testing.T, e *env) {
	e.needEmbedded(t)
	s := newBypassSuite(t, e)
	s.mode(t, "close")
	began := time.Now()
	s.state(t, bypass.Bypassable, "NetworkPolicies are not enforced on")
	t.Logf("reported after %.1fs", time.Since(began).Seconds())
	if took := time.Since(began); took > reportedWithin {
		t.Errorf("it took %v, want at most %v", took, reportedWithin)
	}
	s.all(t, "every way is open", s.strangers, len(s.urls), true)
	s.mesh(t)
}

// plan shows what is to come and changes nothing.
func (s *bypassSuite) plan(t *testing.T) {
	out, err := s.tulle(t, s.release, "policy", "plan", s.ns)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# e2e-bypass/web, TCP port 8080, TCP port 9000\n", "the Service web is of type NodePort", "# would be written\n", "kind: NetworkPolicy", "endPort: 8079",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in the plan:\n%s", want, out)
		}
	}
	// Somebody may write it themselves: the API server takes it as it is shown.
	if _, err := s.kubectl.Apply(t.Context(), out, "apply", "--dry-run=server", "-f", "-"); err != nil {
		t.Error(err)
	}
	if have := s.run(t, "-n", s.ns, "get", "networkpolicies", "-o", "name"); have != "" {
		t.Errorf("the plan wrote %s", have)
	}
}

func newBypassSuite(t *testing.T, e *env) *bypassSuite {
	s := &bypassSuite{env: e, ns: e.namespace(t, "e2e-bypass", "tulle.dev/access: enforce")}
	for _, ns := range []string{s.ns, e.namespace(t, "e2e-scraper")} {
		e.apply(t, ns, file(t, "clients.yaml"))
	}
	e.apply(t, s.ns, file(t, "protected.yaml"))
	e.rollout(t, s.ns, "deployment/web", "daemonset/client")
	e.rollout(t, "e2e-scraper", "daemonset/client")
	s.pods = e.pods(t, s.ns, "app=web")
	s.strangers = append(slices.Clone(e.clients), e.clientsOf(t, s.ns, "app=client")...)
	s.scrapers = e.clientsOf(t, "e2e-scraper", "app=client")
	s.find(t)
	return s
}

// find lists the ways around the mesh: the pods' addresses, the cluster IP, and the node port of every node.
func (s *bypassSuite) find(t *testing.T) {
	t.Helper()
	s.urls, s.addresses = nil, nil
	add := func(host, http, tcp string) {
		s.urls = append(s.urls, "http://"+net.JoinHostPort(host, http)+"/")
		s.addresses = append(s.addresses, net.JoinHostPort(host, tcp))
	}
	for _, p := range s.pods {
		add(p.ip, "8080", "9000")
	}
	f := strings.Fields(s.run(t, "-n", s.ns, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP} {.spec.ports[*].nodePort}"))
	add(f[0], "80", "9000")
	s.direct = len(s.urls)
	nodes := s.run(t, "get", "nodes", "-o", `jsonpath={.items[*].status.addresses[?(@.type=="InternalIP")].address}`)
	for node := range strings.FieldsSeq(nodes) {
		add(node, f[1], f[2])
	}
}

// all waits until every single call succeeds, or fails, by each of the ways: an engine takes a moment.
func (s *bypassSuite) all(t *testing.T, what string, callers []client, ways int, want bool) {
	t.Helper()
	s.eventually(t, what, func() error {
		var mu sync.Mutex
		total, wrong := 0, []string{}
		var g errgroup.Group
		for _, c := range callers {
			for _, args := range s.calls(ways) {
				g.Go(func() error {
					var sum report.Summary
					if err := c.tryExec(t, &sum, args...); err != nil {
						return err
					}
					mu.Lock()
					defer mu.Unlock()
					if total += sum.Calls; want && sum.Failed > 0 || !want && sum.OK > 0 {
						wrong = append(wrong, fmt.Sprintf("%d of %d calls from %s on %s succeeded (%s): %v", sum.OK, sum.Calls, c.pod, c.node, strings.Join(args, " "), sum.Errors))
					}
					return nil
				})
			}
		}
		if err := g.Wait(); err != nil {
			return err
		}
		if len(wrong) > 0 {
			return errors.New(strings.Join(wrong, "; "))
		}
		t.Logf("%s: %d calls", what, total)
		return nil
	})
}

// calls are those of the test tool that try the first ways, each several times.
func (s *bypassSuite) calls(ways int) [][]string {
	n := fmt.Sprint(4 * ways)
	out := [][]string{append([]string{"get", "-timeout", "1s", "-n", n, "-c", n}, s.urls[:ways]...)}
	for _, a := range s.addresses[:ways] {
		out = append(out, []string{"tcp", "-timeout", "1s", "-n", "4", "-c", "4", a})
	}
	return out
}

func (s *bypassSuite) mode(t *testing.T, mode string) {
	t.Helper()
	s.run(t, "label", "namespace", s.ns, "--overwrite", bypass.Label+"="+mode)
}

// state waits until `tulle status` says so of the workload; the text is part of the reason or of the exceptions.
func (s *bypassSuite) state(t *testing.T, want bypass.State, text string) {
	t.Helper()
	s.eventually(t, string(want)+" ("+text+")", func() error {
		d, err := s.reported(t)
		if said := fmt.Sprint(d.Why, d.Except); err == nil && (d.State != string(want) || !strings.Contains(said, text)) {
			err = fmt.Errorf("tulle status says %s %s", d.State, said)
		}
		return err
	})
}

func (s *bypassSuite) reported(t *testing.T) (status.Direct, error) {
	t.Helper()
	out, err := s.tulle(t, s.release, "status", "-o", "json")
	if err != nil {
		return status.Direct{}, err
	}
	var st status.Status
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		return status.Direct{}, err
	}
	for _, d := range st.Leader.Direct {
		if d.Workload == s.ns+"/web" {
			return d, nil
		}
	}
	return status.Direct{}, fmt.Errorf("tulle status says nothing of %s/web: %+v", s.ns, st.Leader.Direct)
}

// otherPorts stay as they are, and show that the pods can be reached at all.
func (s *bypassSuite) otherPorts(t *testing.T) {
	for _, c := range s.strangers {
		for _, p := range s.pods {
			if err := c.allOK(t, "tcp", "-n", "4", "-banner", p.ip+":9001"); err != nil {
				t.Error(err)
			}
		}
	}
}

// mesh: whoever a TrafficTarget allows gets through, in every protocol; nobody else.
func (s *bypassSuite) mesh(t *testing.T) {
	for _, c := range s.clients {
		s.inARow(t, "mesh calls from "+c.node, 2, settleTimeout, func() error {
			if err := c.allOK(t, "get", "-n", "20", "-c", "4", "http://web.e2e-bypass.mesh/"); err != nil {
				return err
			}
			return c.allOK(t, "tcp", "-n", "8", "web.e2e-bypass.mesh:9000")
		})
	}
	for _, c := range s.scrapers { // who is admitted past the mesh is not for that allowed in it
		if sum := c.call(t, "get", "-n", "4", "http://web.e2e-bypass.mesh/"); sum.ByStatus[403] != 4 {
			t.Errorf("from %s by mesh name: status %v, want 403", c.pod, sum.ByStatus)
		}
	}
}

// allowAll: policies add up, so one of a user's can open the way again.
func (s *bypassSuite) allowAll(t *testing.T) {
	s.apply(t, s.ns, "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: allow-all}, spec: {podSelector: {}, ingress: [{}]}}")
	began := time.Now()
	s.state(t, bypass.Bypassable, "everybody is admitted to TCP port 8080 (NetworkPolicy allow-all)")
	if took := time.Since(began); took > reportedWithin {
		t.Errorf("it took %v, want at most %v", took, reportedWithin)
	}
	s.all(t, "every way is open", s.strangers, len(s.urls), true)
	out, err := s.tulle(t, s.release, "check")
	if err == nil || !strings.Contains(out, "e2e-bypass/web can be called past the mesh") {
		t.Errorf("tulle check says %s (%v)", out, err)
	}
	s.run(t, "-n", s.ns, "delete", "networkpolicy", "allow-all")
	s.state(t, bypass.EnforcedExcept, "e2e-scraper")
	s.all(t, "every way is closed", s.strangers[:1], len(s.urls), false)
}

// newPod is selected by the policy that is there already.
func (s *bypassSuite) newPod(t *testing.T) {
	s.run(t, "-n", s.ns, "rollout", "restart", "deployment/web")
	s.rollout(t, s.ns, "deployment/web")
	s.eventually(t, "two pods", func() error {
		if s.pods = s.env.pods(t, s.ns, "app=web"); len(s.pods) != 2 {
			return fmt.Errorf("there are %d", len(s.pods))
		}
		return nil
	})
	s.find(t)
	s.all(t, "every way is closed", s.strangers[:1], len(s.urls), false)
	s.state(t, bypass.EnforcedExcept, "e2e-scraper")
}

// meshPods: the chart's own NetworkPolicies keep strangers from the controllers, from tulle-identity and from the proxies' inner ports.
func (s *bypassSuite) meshPods(t *testing.T) {
	var closed []string
	for _, p := range s.proxies(t) {
		closed = append(closed, p.ip+":15020", p.ip+":15021")
	}
	for _, p := range s.env.pods(t, meshNamespace, "app.kubernetes.io/component=controller") {
		closed = append(closed, p.ip+":15010", p.ip+":15014")
	}
	for _, p := range s.env.pods(t, meshNamespace, "app.kubernetes.io/component=identity") {
		closed = append(closed, p.ip+":15012", p.ip+":15014")
	}
	for _, a := range closed {
		if sum := s.clients[0].call(t, "get", "-timeout", "1s", "http://"+a+"/metrics"); sum.OK != 0 {
			t.Errorf("%s was reached from %s", a, s.clients[0].pod)
		}
	}
}

// probes of the kubelet went on all the time: a pod that failed them would have been started again.
func (s *bypassSuite) probes(t *testing.T) {
	out := s.run(t, "-n", s.ns, "get", "pods", "-l", "app=web", "-o", `jsonpath={range .items[*]}{.status.containerStatuses[0].ready} {.status.containerStatuses[0].restartCount}{"\n"}{end}`)
	for line := range strings.Lines(out) {
		if strings.TrimSpace(line) != "true 0" {
			t.Errorf("ready and restarts: %s", line)
		}
	}
}
