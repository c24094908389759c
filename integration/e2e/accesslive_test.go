package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/integration/images/report"
)

// headers: what clients write under the mesh's own names reaches no backend; what ingresses write does.
func (s *accessSuite) headers(t *testing.T) {
	s.smi.replace(t, file(t, "access/live.yaml"))
	s.lines(t, "client GET :80/ -> passes")
	forged := []string{
		"X-Forwarded-For: 192.0.2.1", "Forwarded: for=192.0.2.1", "Tulle-Caller: e2e-access/other", "tulle-reason: none",
		"X-Forwarded-Client-Cert: By=spiffe://cluster.local/ns/e2e-access/sa/web;URI=spiffe://cluster.local/ns/e2e-access/sa/other",
	}
	target := "http://web." + accessNamespace + ".mesh.:80/"
	calls := []report.Call{
		{Kind: "http", Target: target, Headers: append(forged, "Connection: X-Forwarded-Client-Cert, Tulle-Caller, X-Forwarded-For")},
		{Kind: "h2c", Target: target, Headers: forged},
	}
	for _, c := range s.callers["client"] {
		got, err := s.outcomes(t, c, calls, "5s")
		if err != nil || len(got) != len(calls) {
			t.Fatalf("from %s: %v, %v", c.node, got, err)
		}
		for _, o := range got {
			if o.Status != 200 || o.Answer == nil {
				t.Fatalf("from %s: %+v", c.node, o)
			}
			const want = "By=spiffe://cluster.local/ns/e2e-access/sa/web;URI=spiffe://cluster.local/ns/e2e-access/sa/client"
			if xfcc := o.Answer.Headers["X-Forwarded-Client-Cert"]; len(xfcc) != 1 || xfcc[0] != want {
				t.Errorf("from %s, %s: X-Forwarded-Client-Cert is %q, want %q", c.node, o.Answer.Proto, xfcc, want)
			}
			for name := range o.Answer.Headers {
				if strings.HasPrefix(name, "Tulle-") {
					t.Errorf("from %s, %s: the backend sees %s", c.node, o.Answer.Proto, name)
				}
			}
			if f := strings.Join(o.Answer.Headers["X-Forwarded-For"], ", "); !strings.HasSuffix(f, c.ip) {
				t.Errorf("from %s, %s: X-Forwarded-For is %q, want the client's address at its end", c.node, o.Answer.Proto, f)
			}
		}
	}
}

// hostNetwork: a pod with its node's address has no identity, whatever its ServiceAccount may do, and is not kept waiting
// for one (5 s by default).
func (s *accessSuite) hostNetwork(t *testing.T) {
	s.smi.replace(t, file(t, "access/live.yaml"))
	timeout := "3s"
	if s.e.embedded == nil { // by which address such calls come is up to the network
		timeout = "10s"
	}
	calls := parseAccessCalls(t,
		"client GET :80/  -> passes",
		"client tcp :8300 -> passes",
		"host   GET :80/  -> unknown-caller",
		"host   tcp :8300 -> unknown-caller",
		"host   udp :8300 -> unknown-caller")
	s.e.eventually(t, "the calls", func() error { return s.make(t, calls, timeout) })
	out, err := s.e.tulle(t, s.e.release, "why", "-o", "json", "--from", "-", "--to", "web."+accessNamespace+":80", "--path", "/")
	if err == nil || !strings.Contains(out, `"unknown-caller"`) {
		t.Errorf("tulle why says %s", out)
	}
}

// split: the backend is chosen first, and its own targets decide.
func (s *accessSuite) split(t *testing.T) {
	s.smi.replace(t, file(t, "access/split.yaml"))
	for i := range 2 {
		s.e.inARow(t, "half of the calls", 2, settleTimeout, func() error {
			for from, want := range map[string]string{
				"client": "map[200:20 403:20] map[web:20]", "other": "map[200:40] map[web:20 web-v2:20]",
			} {
				got := s.callers[from][i].call(t, "get", "-n", "40", "http://web."+accessNamespace+".mesh./")
				if got := fmt.Sprint(got.ByStatus, got.ByVersion); got != want {
					return fmt.Errorf("40 calls of %s from node %d: %s, want %s", from, i+1, got, want)
				}
			}
			return nil
		})
	}
	out, err := s.e.tulle(t, s.e.release, "why", "-o", "json", "--from", accessNamespace+"/client", "--to", "web."+accessNamespace+":80", "--path", "/")
	var a struct {
		Reason, Split string
		Destinations  []struct {
			Workload string
			Allow    bool
		}
	}
	if json.NewDecoder(strings.NewReader(out)).Decode(&a) != nil || err == nil || a.Reason != "source-denied" || a.Split != accessNamespace+"/halves" ||
		fmt.Sprint(a.Destinations) != "[{e2e-access/web true} {e2e-access/web-v2 false}]" {
		t.Errorf("tulle why says %s", out)
	}
}

// deletedTarget: the requests of a deleted target are denied on every node within a second, also on kept connections.
func (s *accessSuite) deletedTarget(t *testing.T) {
	allowed, denied := "client GET :80/ -> passes", "client GET :80/ -> source-denied"
	s.smi.replace(t, file(t, "access/live.yaml"))
	s.smi.remove(t, "TrafficTarget", "streams")
	s.lines(t, allowed)
	var loads []*load
	for _, c := range s.callers["client"] {
		loads = append(loads, c.load(t, "deleted", "-rate", "100", "http://web."+accessNamespace+".mesh./"))
	}
	s.e.underWay(t, 2)
	var told []time.Time
	for range 3 {
		for _, change := range []struct {
			what func(t *testing.T, kind, name string) time.Time
			then string
		}{{s.smi.remove, denied}, {s.smi.restore, allowed}} {
			told = append(told, change.what(t, "TrafficTarget", "requests"))
			s.lines(t, change.then)
			s.e.underWay(t, 2) // the loads have seen it, too
		}
	}
	for _, l := range loads {
		got := l.stop(t)
		if got.Failed > 0 || got.ByStatus[403] == 0 {
			t.Errorf("%d of %d requests from %s failed: %v, by status %v", got.Failed, got.Calls, l.client.node, got.Errors, got.ByStatus)
		}
		took := effects(t, got.Turns, told)
		t.Logf("from %s: deletions and creations are in effect after %v", l.client.node, took)
		if slices.Max(took) > atOnce {
			t.Errorf("from %s: a change took %v", l.client.node, slices.Max(took))
		}
	}
}

// liveConnections: what a new policy forbids is closed within a second; what it does not stays open.
func (s *accessSuite) liveConnections(t *testing.T) {
	s.smi.replace(t, file(t, "access/live.yaml"))
	s.lines(t, "client tcp :8300 -> passes", "client udp :8300 -> passes", "other tcp :8300 -> passes", "other udp :8300 -> passes")
	var forbidden, allowed []*held
	for i := range 2 {
		for _, target := range []string{"tcp://%s:8300", "ws://%s:80/", "udp://%s:8300"} {
			target = fmt.Sprintf(target, "web."+accessNamespace+".mesh.")
			forbidden = append(forbidden, s.callers["client"][i].hold(t, target, "-duration", "30s", "-silence", "1s"))
			allowed = append(allowed, s.callers["other"][i].hold(t, target, "-duration", "30s", "-silence", "1s"))
		}
	}
	for _, h := range slices.Concat(forbidden, allowed) {
		if first := h.next(t); !first.Open {
			t.Fatalf("%s: %s", h, first.Error)
		}
	}
	told := s.smi.remove(t, "TrafficTarget", "streams")
	s.smi.remove(t, "TrafficTarget", "requests")
	for _, h := range forbidden {
		end := h.next(t)
		took := end.At.Sub(told)
		t.Logf("%s: closed after %v: %s", h, took, end.Error)
		if end.Open || took > atOnce {
			t.Errorf("%s: closed after %v: %+v", h, took, end)
		}
	}
	told = s.smi.remove(t, "TrafficTarget", "others")
	for _, h := range allowed {
		end := h.next(t)
		// The end of a UDP flow is its last answer, which comes a moment before the change.
		if took := end.At.Sub(told); end.Open || took > atOnce || took < -atOnce/2 {
			t.Errorf("%s, which the first change did not forbid: closed %v after the second: %+v", h, took, end)
		}
	}
}

// firstCall: a pod calls as soon as it runs. It waits until the proxy knows it, and passes.
func (s *accessSuite) firstCall(t *testing.T) {
	s.smi.replace(t, file(t, "access/live.yaml"))
	s.lines(t, "client GET :80/ -> passes", "client tcp :8300 -> passes")
	list, err := json.Marshal([]report.Call{
		{Kind: "http", Target: "http://web." + accessNamespace + ".mesh.:80/", Method: "GET"},
		{Kind: "tcp", Target: "web." + accessNamespace + ".mesh.:8300"},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.e.apply(t, accessNamespace, s.onBoth(t, podSpecOf{app: "new", account: "client", args: fmt.Sprintf("[calls, '%s']", list), once: true}))
	for _, name := range []string{"new-1", "new-2"} {
		s.e.run(t, "-n", accessNamespace, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/"+name, "--timeout="+settleTimeout.String())
		var got []report.Outcome
		if out := s.e.run(t, "-n", accessNamespace, "logs", name); json.Unmarshal([]byte(out), &got) != nil || len(got) != 2 {
			t.Fatalf("%s: %s", name, out)
		}
		t.Logf("the first calls of %s took %.0f and %.0f ms", name, got[0].MS, got[1].MS)
		if got[0].Status != 200 || got[1].Error != "" {
			t.Errorf("the first calls of %s: %+v", name, got)
		}
	}
}

// audit: everything passes, and what would be denied is counted. The namespace's label says off, but the mesh's minimum is
// audit.
func (s *accessSuite) audit(t *testing.T) {
	s.smi.replace(t)
	s.lines(t, "client GET :80/ -> no-target")
	s.label(t, "=off", "namespace", accessNamespace)
	defer s.label(t, "=enforce", "namespace", accessNamespace)
	s.lines(t, "client GET :80/ -> passes", "client tcp :8300 -> passes", "client udp :8300 -> passes", "other PUT :81/a%2Fb//. -> passes")
	s.e.eventually(t, "what would have been denied", func() error {
		for _, kind := range []string{"http client", "tcp client", "udp client", "http other"} {
			protocol, account, _ := strings.Cut(kind, " ")
			n := 0.0
			for _, p := range s.e.proxies(t) {
				n += s.e.metrics(t, p, proxyMetricsPort).sum("tulle_proxy_access_audit_total", map[string]string{
					"protocol": protocol, "from": accessNamespace + "/" + account, "to": accessNamespace + "/web", "reason": "no-target",
				})
			}
			if n == 0 {
				return fmt.Errorf("no %s call was counted", kind)
			}
		}
		return nil
	})
}

// accountLabel: it raises the mode of the pods that run as the ServiceAccount.
func (s *accessSuite) accountLabel(t *testing.T) {
	open := "client GET open." + accessElsewhere + ":80/ -> "
	s.lines(t, open+"passes")
	s.label(t, "=enforce", "-n", accessElsewhere, "serviceaccount", "client")
	s.lines(t, open+"no-target")
	s.label(t, "-", "-n", accessElsewhere, "serviceaccount", "client")
	s.lines(t, open+"passes")
}

// ghostsAlive has a namespace deleted in which a call is allowed.
func (s *accessSuite) ghostsAlive(t *testing.T) {
	s.smi.replace(t, file(t, "access/ghost.yaml"))
	s.lines(t, ghostCall("passes"))
	s.e.run(t, "delete", "namespace", accessGhosts, "--wait=false")
}

// ghostsBuried: made again, the namespace has nothing of what was allowed before.
func (s *accessSuite) ghostsBuried(t *testing.T) {
	s.e.run(t, "wait", "--for=delete", "namespace/"+accessGhosts, "--timeout="+settleTimeout.String())
	s.e.namespace(t, accessGhosts, "tulle.dev/access: enforce")
	s.e.apply(t, accessGhosts, accounts("web")+file(t, "access/services.yaml")+s.pod(t, podSpecOf{account: "web", args: serveAll}, 0))
	passes, denied := parseAccessCalls(t, ghostCall("passes")), parseAccessCalls(t, ghostCall("no-target"))
	for i := range 2 {
		s.e.inARow(t, "the denial", 3, settleTimeout, func() error {
			c := s.callers["client"][i]
			if s.from(t, c, passes, "5s") == nil {
				t.Fatalf("a call from %s passes by a target that went with its namespace", c.node)
			}
			return s.from(t, c, denied, "5s")
		})
	}
}

func ghostCall(result string) string { return "client GET web." + accessGhosts + ":80/ -> " + result }

// held is a connection, or a UDP flow, that a pod keeps.
type held struct {
	client client
	target string
	lines  *json.Decoder
}

func (h *held) String() string {
	return fmt.Sprintf("%s from %s on %s", h.target, h.client.pod, h.client.node)
}

func (c client) hold(t *testing.T, target string, flags ...string) *held {
	t.Helper()
	out, in := io.Pipe()
	go func() {
		in.CloseWithError(c.run(t.Context(), in, io.Discard, append(append([]string{"hold"}, flags...), target)...))
	}()
	t.Cleanup(func() { _, _ = io.Copy(io.Discard, out) }) // it has said what it had to say
	return &held{client: c, target: target, lines: json.NewDecoder(out)}
}

// next is what happens to it next.
func (h *held) next(t *testing.T) report.Held {
	t.Helper()
	var r report.Held
	if err := h.lines.Decode(&r); err != nil {
		t.Fatalf("%s: %v", h, err)
	}
	return r
}
