package check

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/internal/firsthop"
)

// Two nodes with a proxy and a controller each. A case says what each pod found out; what it doesn't mention did not call.
func TestHops(t *testing.T) {
	call := func(pod, source, client string) firsthop.Answer {
		return firsthop.Answer{Server: "10.96.0.9:53", Network: "udp", Pod: pod, Source: source, Client: client}
	}
	lost := firsthop.Answer{Server: "10.96.0.9:53", Network: "tcp", Error: "i/o timeout"}
	good := map[string][]firsthop.Answer{
		"p-1": {call("p-1", "10.1.1.5", "10.1.1.1")}, // masqueraded on the way to itself
		"p-2": {call("p-2", "10.1.2.5", "10.1.2.1")},
		"c-1": {call("p-1", "10.1.1.6", "10.1.1.6"), call("p-1", "10.1.1.6", "10.1.1.6")},
		"c-2": {call("p-2", "10.1.2.6", "10.1.2.6")},
	}
	const stays, seen = "ok: calls from 2 of 2 nodes end at the proxy of their own node (5 of 5 calls)", "ok: the mesh sees callers' own addresses (called from 2 nodes: n1, n2)"
	tests := map[string]struct {
		local   bool
		unready string
		answers map[string][]firsthop.Answer // instead of the good ones
		err     string                       // of this pod
		want    []string                     // level: beginning of the message
		next    string                       // in one of the findings
	}{
		"all is well": {want: []string{stays, seen}},
		"half of the calls cross": {
			answers: map[string][]firsthop.Answer{"c-1": {call("p-1", "10.1.1.6", "10.1.1.6"), call("p-2", "10.1.1.6", "10.1.1.6")}},
			want:    []string{"failed: calls leave their node: from 1 of 2 nodes (n1), 1 of 5 calls ended at the proxy of another", seen},
			next:    "set addresses.firstHop=local, or",
		},
		"even with the strict policy": {
			local: true, answers: map[string][]firsthop.Answer{"p-2": {call("p-1", "10.1.2.5", "10.1.2.5")}},
			want: []string{"failed: calls leave their node: from 1 of 2 nodes (n2), 1 of 5", seen},
			next: "ignores internalTrafficPolicy: Local",
		},
		"a node's proxy is replaced": {
			unready: "p-1", answers: map[string][]firsthop.Answer{"c-1": {call("p-2", "10.1.1.6", "10.1.1.6")}},
			want: []string{"ok: calls from 1 of 1 nodes end at the proxy of their own node (2 of 2 calls)", seen},
		},
		"and nothing fails over": {
			local: true, unready: "p-1", answers: map[string][]firsthop.Answer{"c-1": {lost}},
			want: []string{"ok: calls from 1 of 1 nodes", "ok: the mesh sees callers' own addresses (called from 1 nodes: n2)"},
		},
		"a proxy that came meanwhile": {
			answers: map[string][]firsthop.Answer{"c-1": {call("p-9", "10.1.1.6", "10.1.1.6")}, "p-1": nil},
			want:    []string{"ok: calls from 1 of 2 nodes", "note: whether calls stay on their node isn't known of 1 of 2 nodes: n1", seen},
		},
		"masqueraded": {
			answers: map[string][]firsthop.Answer{"c-2": {call("p-2", "10.1.2.6", "10.1.2.1"), call("p-2", "10.1.2.6", "10.1.2.1")}},
			want:    []string{"ok: calls from 2 of 2 nodes", "failed: the mesh doesn't see who calls: 10.1.2.6 on n2 is seen as 10.1.2.1"},
			next:    "kube-proxy without masqueradeAll",
		},
		"masqueraded only where calls cross": {
			answers: map[string][]firsthop.Answer{"p-1": {call("p-2", "10.1.1.5", "10.1.1.1")}},
			want:    []string{"failed: calls leave their node: from 1 of 2 nodes (n1)", "failed: the mesh doesn't see who calls: 10.1.1.5 on n1 is seen as 10.1.1.1"},
		},
		"no pod can call itself": {
			answers: map[string][]firsthop.Answer{"p-1": {lost}, "p-2": {lost}},
			want:    []string{"ok: calls from 2 of 2 nodes end at the proxy of their own node (3 of 3 calls)", seen},
		},
		"nor is there a controller on the node": {
			answers: map[string][]firsthop.Answer{"p-2": {lost}, "c-2": nil},
			want: []string{
				"ok: calls from 1 of 2 nodes", "note: whether calls stay on their node isn't known of 1 of 2 nodes: n2",
				"ok: the mesh sees callers' own addresses (called from 1 nodes: n1)",
			},
		},
		"one protocol is dead": {
			answers: map[string][]firsthop.Answer{"c-2": {call("p-2", "10.1.2.6", "10.1.2.6"), lost, lost}},
			want:    []string{"failed: controller c-2 on n2 calls the proxies at 10.96.0.9:53/tcp and gets no answer: i/o timeout", stays, seen},
		},
		"one call is lost": {
			answers: map[string][]firsthop.Answer{"c-2": {{Server: "10.96.0.9:53", Network: "udp", Error: "i/o timeout"}, call("p-2", "10.1.2.6", "10.1.2.6")}},
			want:    []string{stays, seen},
		},
		"an old pod": {
			err: "c-2", answers: map[string][]firsthop.Answer{"c-2": nil},
			want: []string{
				"note: could not have 1 pods call the proxies (c-2): status 404", "ok: calls from 2 of 2 nodes end at the proxy of their own node (4 of 4 calls)",
				"ok: the mesh sees callers' own addresses (called from 1 nodes: n1)",
			},
		},
		"no controller": {
			answers: map[string][]firsthop.Answer{"c-1": nil, "c-2": nil},
			want:    []string{"ok: calls from 2 of 2 nodes", "note: whether the mesh sees callers' own addresses isn't known"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHops(twoNodes(t, tt.unready), tt.local)
			for i := range h.askers {
				a := &h.askers[i]
				var has bool
				if a.answers, has = tt.answers[a.pod]; !has {
					a.answers = good[a.pod]
				}
				if a.pod == tt.err {
					a.err = errors.New("status 404")
				}
			}
			findings, next := h.findings(), ""
			for i, f := range findings {
				next += f.Next
				if got := fmt.Sprintf("%s: %s", f.Level, f.Message); i >= len(tt.want) || !strings.HasPrefix(got, tt.want[i]) {
					t.Errorf("finding %d: %s\nwant %q", i, got, tt.want)
				}
				if f.Level != OK && f.Next == "" {
					t.Errorf("it doesn't say what to do: %+v", f)
				}
			}
			if len(findings) < len(tt.want) || !strings.Contains(next, tt.next) {
				t.Errorf("findings %+v, want %q and %q", findings, tt.want, tt.next)
			}
		})
	}
}

func twoNodes(t *testing.T, unready string) []corev1.Pod {
	t.Helper()
	var pods []corev1.Pod
	for _, name := range []string{"p-1", "p-2", "c-1", "c-2"} {
		component, is := map[string]string{"p": "proxy", "c": "controller"}[name[:1]], "True"
		if name == unready {
			is = "False"
		}
		var p corev1.Pod
		decode(t, fmt.Sprintf(`{metadata: {name: %s, labels: {app.kubernetes.io/component: %s}}, spec: {nodeName: n%s}, status: {phase: Running, conditions: [{type: Ready, status: %q}]}}`, name, component, name[2:], is), &p)
		pods = append(pods, p)
	}
	return pods
}
