package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/integration/images/report"
)

const (
	accessNamespace = "e2e-access"           // enforced
	accessElsewhere = "e2e-access-elsewhere" // off, but for the mesh's minimum
	accessGhosts    = "e2e-access-ghosts"    // enforced; it is deleted on the way
)

// accessSuite: SMI's access control (A1-A9, S1-S4), with callers on the destination's node and on another one. The
// destination is on the first node.
type accessSuite struct {
	e       *env
	smi     *smiObjects
	callers map[string][]caller // by the names of accessCall; one on the first node, then one on the second
	judged  map[string]bool     // "protocol reason" of the calls, whether they were denied
}

// caller is a pod that calls.
type caller struct {
	client
	ip string
}

func accessControl(t *testing.T, e *env) {
	s := &accessSuite{e: e, smi: newSMIObjects(t, e), callers: map[string][]caller{}, judged: map[string]bool{}}
	defer e.setValues(t, "--set", "access.minimum=off", "--set", "access.identityLifetime=1h")
	began := time.Now()
	s.deploy(t)
	t.Logf("the pods of the suite are ready after %v", time.Since(began).Round(100*time.Millisecond))
	t.Run("ghosts, alive", s.ghostsAlive)
	t.Run("rules", func(t *testing.T) {
		for _, c := range accessCases(t, s.callers["elsewhere/client"][0].ip) {
			t.Run(c.name, func(t *testing.T) { s.rule(t, c) })
		}
	})
	t.Run("what the backend sees", s.headers)
	t.Run("hostNetwork", s.hostNetwork)
	t.Run("split", s.split)
	t.Run("a deleted target", s.deletedTarget)
	t.Run("live connections", s.liveConnections)
	t.Run("a new pod's first call", s.firstCall)
	t.Run("audit, which no label can lower", s.audit)
	t.Run("a ServiceAccount's label", s.accountLabel)
	t.Run("refusals are counted", s.counted)
	t.Run("ghosts, buried", s.ghostsBuried)
	t.Run("an address is reused", s.reuse)
}

// deploy starts all pods and makes audit the mesh's minimum.
func (s *accessSuite) deploy(t *testing.T) {
	e := s.e
	if _, err := e.tulle(t, e.release, append(append([]string{"upgrade", "--wait=false"}, e.release.values()...),
		"--set", "access.minimum=audit", "--set", "access.identityLifetime="+identityLifetime.String())...); err != nil {
		t.Fatal(err)
	}
	e.namespace(t, accessNamespace, "tulle.dev/access: enforce")
	e.namespace(t, accessElsewhere, `tulle.dev/access: "off"`)
	e.namespace(t, accessGhosts, "tulle.dev/access: enforce")
	server, client := podSpecOf{account: "web", args: serveAll}, podSpecOf{account: "client", args: serveAll}
	host := podSpecOf{app: "host", account: "client", hostNetwork: true, args: "[sleep]"}
	other, second := podSpecOf{account: "other", args: serveAll}, podSpecOf{account: "web-v2", args: serveAll}
	e.apply(t, accessNamespace, accounts("web", "web-v2", "client", "other")+file(t, "access/services.yaml")+
		s.pod(t, server, 0)+s.pod(t, second, 0)+s.onBoth(t, client)+s.onBoth(t, other)+s.onBoth(t, host))
	e.apply(t, accessElsewhere, accounts("client")+s.onBoth(t, client)+
		"---\n{apiVersion: v1, kind: Service, metadata: {name: open}, spec: {selector: {app: client}, ports: [{name: http, port: 80, targetPort: 8080}]}}")
	e.apply(t, accessGhosts, accounts("web")+file(t, "access/services.yaml")+s.pod(t, server, 0))
	for _, ns := range []string{accessNamespace, accessElsewhere, accessGhosts} {
		e.run(t, "-n", ns, "wait", "--for=condition=Ready", "pods", "--all", "--timeout="+rolloutTimeout.String())
	}
	for _, name := range []string{"client", "other", "host", "elsewhere/client"} {
		ns, app := accessNamespace, name
		if rest, ok := strings.CutPrefix(name, "elsewhere/"); ok {
			ns, app = accessElsewhere, rest
		}
		if s.callers[name] = s.callersOf(t, ns, app); len(s.callers[name]) != 2 {
			t.Fatalf("%d pods are %s, want 2", len(s.callers[name]), name)
		}
	}
	e.rollout(t, meshNamespace, "deployment/tulle-controller")
}

func (s *accessSuite) callersOf(t *testing.T, namespace, app string) []caller {
	t.Helper()
	var cs []caller
	for _, p := range s.e.pods(t, namespace, "app="+app) {
		cs = append(cs, caller{client{e: s.e, namespace: namespace, pod: p.name, node: p.node}, p.ip})
	}
	return cs
}

// podSpecOf is what the pods of the suite differ in.
type podSpecOf struct {
	app, account, args string // app defaults to the account
	hostNetwork, once  bool
}

const serveAll = `[serve, -http, ":8080", -tcp, ":9000", -udp, ":9002"]`

// pod is the YAML of a pod on one of the first two nodes.
func (s *accessSuite) pod(t *testing.T, p podSpecOf, node int) string {
	t.Helper()
	if p.app == "" {
		p.app = p.account
	}
	restart := "Always"
	if p.once {
		restart = "Never"
	}
	return "---\n" + file(t, "access/pod.yaml", "$NAME", fmt.Sprintf("%s-%d", p.app, node+1), "$APP", p.app, "$ACCOUNT", p.account, "$ARGS", p.args,
		"$NODE", s.e.clients[node].node, "$HOST_NETWORK", fmt.Sprint(p.hostNetwork), "$RESTART", restart)
}

func (s *accessSuite) onBoth(t *testing.T, p podSpecOf) string {
	t.Helper()
	return s.pod(t, p, 0) + s.pod(t, p, 1)
}

func accounts(names ...string) string {
	var b strings.Builder
	for _, n := range names {
		fmt.Fprintf(&b, "---\n{apiVersion: v1, kind: ServiceAccount, metadata: {name: %s}}\n", n)
	}
	b.WriteString("---\n")
	return b.String()
}

// rule makes the calls of a case, and asks `tulle why` about them.
func (s *accessSuite) rule(t *testing.T, c accessCase) {
	for _, order := range c.policies {
		s.smi.replace(t, order...)
		s.hold(t, c.calls...)
	}
	for _, call := range c.calls {
		s.judged[call.protocol()+" "+call.reason] = call.reason != ""
	}
	s.why(t, c.calls)
}

// hold waits until all calls become what they should, at the same time: those that pass and those that do not.
func (s *accessSuite) hold(t *testing.T, calls ...accessCall) {
	t.Helper()
	s.e.eventually(t, "the calls", func() error { return s.make(t, calls, "5s") })
}

// lines is hold for calls as they are written in files.
func (s *accessSuite) lines(t *testing.T, lines ...string) {
	t.Helper()
	s.hold(t, parseAccessCalls(t, lines...)...)
}

// make makes every call from both nodes, once, and says what is not as it should.
func (s *accessSuite) make(t *testing.T, calls []accessCall, timeout string) error {
	t.Helper()
	byCaller := map[string][]accessCall{}
	for _, c := range calls {
		byCaller[c.from] = append(byCaller[c.from], c)
	}
	var mu sync.Mutex
	var wrong []error
	var wg sync.WaitGroup
	for from, list := range byCaller {
		if len(s.callers[from]) == 0 {
			return fmt.Errorf("nobody is %s", from)
		}
		for _, c := range s.callers[from] {
			wg.Go(func() {
				if err := s.from(t, c, list, timeout); err != nil {
					mu.Lock()
					defer mu.Unlock()
					wrong = append(wrong, fmt.Errorf("from %s: %w", c.node, err))
				}
			})
		}
	}
	wg.Wait()
	return errors.Join(wrong...)
}

// from makes calls from one pod, and says which of them do not become what they should.
func (s *accessSuite) from(t *testing.T, c caller, calls []accessCall, timeout string) error {
	t.Helper()
	var all []report.Call
	var meant []accessCall
	for _, call := range calls {
		for _, v := range call.variants() {
			all, meant = append(all, v), append(meant, call)
		}
	}
	got, err := s.outcomes(t, c, all, timeout)
	if err != nil {
		return err
	}
	if len(got) != len(all) {
		return fmt.Errorf("%d outcomes of %d calls", len(got), len(all))
	}
	var wrong []error
	for i, o := range got {
		wrong = append(wrong, meant[i].fits(all[i].Kind, o))
	}
	return errors.Join(wrong...)
}

// outcomes makes calls from one pod. The pod's server is asked to, which is much faster than kubectl exec.
func (s *accessSuite) outcomes(t *testing.T, c caller, calls []report.Call, timeout string) (got []report.Outcome, err error) {
	t.Helper()
	const silence = "500ms"
	b, err := json.Marshal(calls)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(c.pod, "host-") { // there is no server on the node itself
		err = c.tryExec(t, &got, "calls", "-timeout", timeout, "-silence", silence, string(b))
		return got, err
	}
	out, err := s.e.tryHTTP(t, pod{namespace: c.namespace, name: c.pod, node: c.node, ip: c.ip}, 8080, "/calls?timeout="+timeout+"&silence="+silence, string(b), false)
	if err != nil {
		return nil, err
	}
	err = json.Unmarshal([]byte(out), &got)
	return got, err
}

// why asks `tulle why` about a call of each protocol and outcome: the answer has to be what the call got. It is asked about
// all of them where that is cheaper, by TestWhyOfAccessCases.
func (s *accessSuite) why(t *testing.T, calls []accessCall) {
	t.Helper()
	limit := make(chan struct{}, 2)
	asked := map[string]bool{}
	var wg sync.WaitGroup
	for _, c := range calls {
		kind := c.protocol() + " " + c.reason
		if asked[kind] {
			continue
		}
		asked[kind] = true
		wg.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			if err := s.askWhy(t, c); err != nil {
				t.Errorf("tulle why, %s: %v", c.line, err)
			}
		})
	}
	wg.Wait()
}

func (s *accessSuite) askWhy(t *testing.T, c accessCall) error {
	t.Helper()
	namespace, account := c.identity()
	args := []string{"why", "-o", "json", "--from", namespace + "/" + account, "--to", fmt.Sprintf("%s:%d", c.service, c.port)}
	switch {
	case c.kind == "grpc":
		args = append(args, "--method", "POST", "--path", c.path)
	case c.isHTTP():
		args = append(args, "--method", c.kind, "--path", c.path)
	default:
		args = append(args, "--"+c.kind)
	}
	for _, h := range c.headers {
		args = append(args, "--header", strings.Replace(h, ": ", "=", 1))
	}
	out, err := s.e.tulle(t, s.e.release, args...)
	var a struct {
		Allow        bool
		Reason       string
		Destinations []struct{ Path string }
	}
	if json.NewDecoder(strings.NewReader(out)).Decode(&a) != nil {
		return fmt.Errorf("no answer but %s (%w)", out, err)
	}
	if a.Allow != (c.reason == "") || a.Reason != c.reason || (err == nil) != a.Allow {
		return fmt.Errorf("it says %s (%w)", out, err)
	}
	if want, _, _ := strings.Cut(c.as, "?"); want != "" && (len(a.Destinations) != 1 || a.Destinations[0].Path != want) {
		return fmt.Errorf("it says that not %s is forwarded: %s", want, out)
	}
	return nil
}

// counted: every refusal of the rules' calls is in the metrics of some proxy by its protocol and reason.
func (s *accessSuite) counted(t *testing.T) {
	s.e.eventually(t, "refusals", func() error {
		n := map[string]float64{}
		for _, p := range s.e.proxies(t) {
			m := s.e.metrics(t, p, proxyMetricsPort)
			for kind := range s.judged {
				protocol, reason, _ := strings.Cut(kind, " ")
				n[kind] += m.sum("tulle_proxy_refusals_total", map[string]string{"namespace": accessNamespace, "service": "web", "protocol": protocol, "reason": reason})
			}
		}
		for kind, denied := range s.judged {
			if denied && n[kind] == 0 {
				return fmt.Errorf("none of %q was counted", kind)
			}
		}
		return nil
	})
}

// label labels an object with a mode ("=audit"), or takes the label away ("-").
func (s *accessSuite) label(t *testing.T, mode string, object ...string) {
	t.Helper()
	s.e.run(t, slices.Concat([]string{"label", "--overwrite"}, object, []string{"tulle.dev/access" + mode})...)
}
