package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/check"
)

// install puts tulle into the cluster, as a user would, for the suites that follow.
func install(t *testing.T, e *env) {
	e.before = e.objects(t)
	e.release = e.build(t, e.root)
	e.install(t, e.release)
	t.Run("calls stay on their node and show who calls", func(t *testing.T) { firstHop(t, e) })
	t.Run("twice changes nothing", func(t *testing.T) {
		versions := func() string {
			return e.run(t, "-n", meshNamespace, "get", "deploy,daemonset,service,serviceaccount,role,rolebinding,networkpolicy", "-o",
				`jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.generation} {.metadata.labels}{"\n"}{end}`)
		}
		before := versions()
		if _, err := e.tulle(t, e.release, append([]string{"install"}, e.release.values()...)...); err != nil {
			t.Fatal(err)
		}
		if after := versions(); after != before {
			t.Errorf("objects were\n%s\nand are\n%s", before, after)
		}
	})
	t.Run("every proxy is connected", func(t *testing.T) {
		e.eventually(t, "tulle check", func() error {
			_, err := e.tulle(t, e.release, "check")
			return err
		})
	})
}

// firstHop has `tulle check` say, before the first call, that calls from every node would end at the proxy of that node,
// with the callers' own addresses.
func firstHop(t *testing.T, e *env) {
	nodes := len(e.clients)
	want := []string{fmt.Sprintf("calls from %d of %d nodes end at the proxy of their own node", nodes, nodes), "the mesh sees callers' own addresses"}
	if e.embedded != nil { // on each of its nodes is a controller
		want[1] += fmt.Sprintf(" (called from %d nodes", nodes)
	}
	e.eventually(t, "tulle check is content with the first hop", func() error {
		out, err := e.tulle(t, e.release, "check", "-o", "json")
		var r check.Report
		if json.NewDecoder(strings.NewReader(out)).Decode(&r) != nil {
			return fmt.Errorf("no report but %s (%w)", out, err)
		}
		r.Findings = slices.DeleteFunc(r.Findings, func(f check.Finding) bool { return f.Check != "first-hop" })
		if !slices.EqualFunc(r.Findings, want, func(f check.Finding, want string) bool {
			return f.Level == check.OK && strings.HasPrefix(f.Message, want)
		}) {
			return fmt.Errorf("it says %+v, want %q", r.Findings, want)
		}
		return nil
	})
}

// uninstall takes it away again: nothing is left that was not there before.
func uninstall(t *testing.T, e *env) {
	if _, err := e.tulle(t, e.release, "uninstall", "--force", "--crds"); err != nil {
		t.Fatal(err)
	}
	e.eventually(t, "nothing left", func() error {
		return sameObjects(e.before, e.objects(t))
	})
}

// corefile is the cluster's, as it is now.
func (e *env) corefile(t *testing.T) string {
	t.Helper()
	return e.run(t, "-n", "kube-system", "get", "configmap", "coredns", "--ignore-not-found", "-o", "jsonpath={.data.Corefile}")
}

// objects lists all objects of the cluster but those that come and go by themselves, and the cluster's Corefile.
func (e *env) objects(t *testing.T) []string {
	t.Helper()
	kinds := strings.Fields(e.run(t, "api-resources", "--verbs=list", "-o", "name"))
	kinds = slices.DeleteFunc(kinds, func(k string) bool {
		return slices.Contains([]string{
			"events", "events.events.k8s.io", "endpoints", "pods", "componentstatuses", "replicasets.apps", "controllerrevisions.apps", "ipaddresses.networking.k8s.io",
		}, k)
	})
	out := strings.Split(strings.TrimSpace(e.run(t, "get", strings.Join(kinds, ","), "-A", "--ignore-not-found", "-o",
		`jsonpath={range .items[*]}{.apiVersion}/{.kind} {.metadata.namespace}/{.metadata.name} {.metadata.finalizers}{"\n"}{end}`)), "\n")
	out = slices.DeleteFunc(out, func(line string) bool {
		return strings.Contains(line, " e2e-") || strings.Contains(line, "/Namespace /e2e-") || strings.Contains(line, "Namespace /"+meshNamespace) ||
			strings.Contains(line, " "+meshNamespace+"/kube-root-ca.crt") || strings.Contains(line, " "+meshNamespace+"/default ") || strings.Contains(line, "/APIService ")
	})
	return append(out, "Corefile "+e.corefile(t))
}

// sameObjects says what is there now and was not before, and the other way round.
func sameObjects(before, after []string) error {
	var diff []string
	for _, line := range after {
		if !slices.Contains(before, line) {
			diff = append(diff, "+ "+line)
		}
	}
	for _, line := range before {
		if !slices.Contains(after, line) {
			diff = append(diff, "- "+line)
		}
	}
	if len(diff) > 0 {
		return fmt.Errorf("objects changed:\n%s", strings.Join(diff, "\n"))
	}
	return nil
}
