package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/integration/images/report"
)

// reuse: the address of a pod that may call is given to one that may not. It shows for how long one is taken for the other.
func (s *accessSuite) reuse(t *testing.T) {
	s.e.needEmbedded(t)
	s.smi.replace(t, file(t, "access/live.yaml"))
	s.smi.remove(t, "TrafficTarget", "others")
	s.lines(t, "client GET :80/ -> passes", "other GET :80/ -> source-denied")
	t.Run("controllers at work", s.reuseNoticed)
	t.Run("no controller", s.reuseUnnoticed)
}

const reusedURL = "http://web." + accessNamespace + ".mesh./"

// reuseNoticed: the newcomer calls from its start on, 200 times a second.
func (s *accessSuite) reuseNoticed(t *testing.T) {
	s.victim(t)
	s.inherit(t, `[load, -rate, "200", -per-conn, "1", -duration, 4s, "`+reusedURL+`"]`)
	s.e.run(t, "-n", accessNamespace, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/heir-1", "--timeout="+settleTimeout.String())
	var got report.Summary
	if out := s.e.run(t, "-n", accessNamespace, "logs", "heir-1"); json.Unmarshal([]byte(out), &got) != nil {
		t.Fatal(out)
	}
	s.e.run(t, "-n", accessNamespace, "delete", "pod", "heir-1")
	t.Logf("of %d calls %d passed by the identity of the pod before; the first answer took %.0f ms at most", got.Calls, got.ByStatus[200], got.MaxMS)
	if got.ByStatus[403] == 0 || got.LastReply["Tulle-Reason"] != "source-denied" {
		t.Errorf("the last calls were not denied: %+v", got)
	}
	if took := taken(got); took > atOnce {
		t.Errorf("one pod was taken for another for %v", took)
	}
}

// reuseUnnoticed: nobody tells the proxies of the newcomer. It is taken for the pod before, but for no longer than an
// identity lives; after that, nobody passes until a controller is back.
func (s *accessSuite) reuseUnnoticed(t *testing.T) {
	s.victim(t)
	s.e.run(t, "-n", meshNamespace, "scale", "deployment/tulle-controller", "--replicas=0")
	defer func() {
		s.e.run(t, "-n", meshNamespace, "scale", "deployment/tulle-controller", "--replicas=2")
		s.e.rollout(t, meshNamespace, "deployment/tulle-controller")
	}()
	s.e.run(t, "-n", meshNamespace, "wait", "--for=delete", "pod", "-l", "app.kubernetes.io/component=controller", "--timeout="+settleTimeout.String())
	gone := time.Now()
	s.inherit(t, serveAll)
	s.e.run(t, "-n", accessNamespace, "wait", "--for=condition=Ready", "pod/heir-1", "--timeout="+settleTimeout.String())
	heir := s.callersOf(t, accessNamespace, "heir")[0]
	l := heir.load(t, "heir", "-rate", "50", "-per-conn", "1", reusedURL)
	s.lines(t, "client GET :80/ -> identity-stale", "client tcp :8300 -> identity-stale", "other GET :80/ -> identity-stale")
	got := l.stop(t)
	t.Logf("of %d calls %d passed by the identity of the pod before, for %v until %v after the last controller ended", got.Calls, got.ByStatus[200],
		taken(got), lastTurn(got).Sub(gone))
	if got.ByStatus[403] == 0 || got.LastReply["Tulle-Reason"] != "identity-stale" || lastTurn(got).Sub(gone) > identityLifetime+time.Second {
		t.Errorf("the last calls were not denied in time: %+v", got)
	}
	s.e.run(t, "-n", meshNamespace, "scale", "deployment/tulle-controller", "--replicas=2")
	s.lines(t, "client GET :80/ -> passes", "other GET :80/ -> source-denied")
	denied := parseAccessCalls(t, "heir GET :80/ -> source-denied")
	s.e.eventually(t, "the newcomer as itself", func() error { return s.from(t, heir, denied, "10s") })
}

// victim starts the pod whose address is to be reused, and has it call.
func (s *accessSuite) victim(t *testing.T) {
	t.Helper()
	s.e.apply(t, accessNamespace, s.pod(t, podSpecOf{app: "victim", account: "client", args: serveAll}, 0))
	s.e.run(t, "-n", accessNamespace, "wait", "--for=condition=Ready", "pod/victim-1", "--timeout="+settleTimeout.String())
	call := parseAccessCalls(t, "victim GET :80/ -> passes")
	c := s.callersOf(t, accessNamespace, "victim")[0]
	s.e.eventually(t, "its call", func() error { return s.from(t, c, call, "10s") })
}

// inherit deletes that pod and starts one of another ServiceAccount that gets its address.
func (s *accessSuite) inherit(t *testing.T, args string) {
	t.Helper()
	victim := s.e.pods(t, accessNamespace, "app=victim")[0]
	s.e.run(t, "-n", accessNamespace, "delete", "pod", victim.name)
	s.nextAddress(t, victim.node, victim.ip)
	s.e.apply(t, accessNamespace, s.pod(t, podSpecOf{app: "heir", account: "other", args: args, once: true}, 0))
	s.e.eventually(t, "an address", func() error {
		heir := s.e.pods(t, accessNamespace, "app=heir")[0]
		if heir.ip != "" && heir.ip != victim.ip {
			t.Fatalf("the new pod has the address %s, not %s", heir.ip, victim.ip)
		}
		if heir.ip == "" {
			return fmt.Errorf("%s has none yet", heir.name)
		}
		return nil
	})
}

// nextAddress makes the next pod of a node get an address. The plugin host-local gives out one after the other; it keeps
// the last one in a file, and those in use in files of their names.
func (s *accessSuite) nextAddress(t *testing.T, node, ip string) {
	t.Helper()
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("cd /var/lib/cni/networks/pods && test ! -e %s && printf %s >last_reserved_ip.0", addr, addr.Prev())
	s.e.eventually(t, "the address is free", func() error {
		_, err := s.e.embedded.ExecIn(t.Context(), node, "sh", "-c", script)
		return err
	})
}

// taken is for how long calls passed; lastTurn is when the answers changed for the last time.
func taken(s report.Summary) time.Duration {
	var total time.Duration
	for i, turn := range s.Turns {
		if turn.Version != "" && i+1 < len(s.Turns) {
			total += s.Turns[i+1].At.Sub(turn.At)
		}
	}
	return total
}

func lastTurn(s report.Summary) time.Time {
	if len(s.Turns) == 0 {
		return time.Time{}
	}
	return s.Turns[len(s.Turns)-1].At
}
