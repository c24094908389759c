package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/integration/images/report"
)

// clientNamespace is where the client pods are; it enforces PodSecurity restricted.
const clientNamespace = "e2e-clients"

// client is a pod with the test tool, from which calls are made.
type client struct {
	e         *env
	namespace string
	pod       string
	node      string
}

func (e *env) deployClients(t *testing.T) {
	t.Helper()
	e.namespace(t, clientNamespace, "pod-security.kubernetes.io/enforce: restricted")
	e.apply(t, clientNamespace, file(t, "clients.yaml"))
	if e.embedded != nil {
		if err := e.embedded.WaitDNS(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	e.rollout(t, clientNamespace, "daemonset/client")
	e.clients = e.clientsOf(t, clientNamespace, "app=client")
	if len(e.clients) < 2 {
		t.Fatalf("the suites need at least two nodes, here are %d", len(e.clients))
	}
}

// clientsOf are the running pods of the test tool with a label, sorted by node.
func (e *env) clientsOf(t *testing.T, namespace, label string) []client {
	t.Helper()
	out := e.run(t, "-n", namespace, "get", "pods", "-l", label, "--field-selector=status.phase=Running", "--sort-by=.spec.nodeName",
		"-o", `jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName}{"\n"}{end}`)
	var cs []client
	for line := range strings.Lines(out) {
		pod, node, _ := strings.Cut(strings.TrimSpace(line), " ")
		cs = append(cs, client{e: e, namespace: namespace, pod: pod, node: node})
	}
	return cs
}

// run runs the test tool.
func (c client) run(ctx context.Context, out, errs io.Writer, args ...string) error {
	return c.e.kubectl.Exec(ctx, c.namespace, c.pod, out, errs, append([]string{"testtool"}, args...)...)
}

// exec runs the test tool and parses what it prints.
func (c client) exec(t *testing.T, into any, args ...string) {
	t.Helper()
	if err := c.tryExec(t, into, args...); err != nil {
		t.Fatal(err)
	}
}

func (c client) tryExec(t *testing.T, into any, args ...string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), execTimeout)
	defer cancel()
	var out, errs bytes.Buffer
	if err := c.run(ctx, &out, &errs, args...); err != nil {
		return fmt.Errorf("testtool %s in %s: %w: %s", strings.Join(args, " "), c.pod, err, errs.String())
	}
	if err := json.Unmarshal(out.Bytes(), into); err != nil {
		return fmt.Errorf("testtool %s in %s: %w: %s", strings.Join(args, " "), c.pod, err, out.String())
	}
	return nil
}

// call runs get, tcp, udp or ws.
func (c client) call(t *testing.T, args ...string) report.Summary {
	t.Helper()
	var s report.Summary
	c.exec(t, &s, args...)
	return s
}

// allOK calls and says what went wrong, if anything did.
func (c client) allOK(t *testing.T, args ...string) error {
	t.Helper()
	var s report.Summary
	if err := c.tryExec(t, &s, args...); err != nil {
		return err
	}
	if s.OK != s.Calls {
		return fmt.Errorf("%d of %d calls from %s failed (%s): %v, status %v", s.Failed, s.Calls, c.node, strings.Join(args, " "), s.Errors, s.ByStatus)
	}
	return nil
}

// resolve asks for one name.
func (c client) resolve(t *testing.T, args ...string) report.Lookup {
	t.Helper()
	var all []report.Lookup
	c.exec(t, &all, append([]string{"resolve"}, args...)...)
	if len(all) != 1 {
		t.Fatalf("%d answers to one question", len(all))
	}
	return all[0]
}

// load is a running constant-rate client.
type load struct {
	client client
	name   string
	done   chan error
	ended  bool
	out    bytes.Buffer
	errs   bytes.Buffer
}

// load starts one; its name is unique in the pod. It ends with the test at the latest.
func (c client) load(t *testing.T, name string, args ...string) *load {
	t.Helper()
	l := &load{client: c, name: name, done: make(chan error, 1)}
	go func() {
		l.done <- c.run(t.Context(), &l.out, &l.errs, append([]string{"load", "-name", name}, args...)...)
	}()
	t.Cleanup(func() { // the end of the connection would not end what runs
		if !l.ended {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), execTimeout)
			defer cancel()
			_ = c.run(ctx, io.Discard, io.Discard, "stop", name) // it may have ended by itself
		}
	})
	return l
}

// stop ends it and returns what happened since its start.
func (l *load) stop(t *testing.T) report.Summary {
	t.Helper()
	// It may not listen yet, so ask until it has ended.
	l.client.e.eventually(t, "end of load "+l.name, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), execTimeout)
		defer cancel()
		var errs bytes.Buffer
		if err := l.client.run(ctx, io.Discard, &errs, "stop", l.name); err != nil {
			return fmt.Errorf("%w: %s", err, errs.String())
		}
		return nil
	})
	return l.wait(t)
}

// wait is for a load with a -duration.
func (l *load) wait(t *testing.T) report.Summary {
	t.Helper()
	err := <-l.done
	l.ended = true
	if err != nil {
		t.Fatalf("load %s: %v: %s", l.name, err, l.errs.String())
	}
	var s report.Summary
	if err := json.Unmarshal(l.out.Bytes(), &s); err != nil {
		t.Fatalf("load %s: %v: %s", l.name, err, l.out.String())
	}
	if len(s.Failures) > 0 {
		began := time.Now().Add(-time.Duration(s.Seconds * float64(time.Second)))
		t.Logf("%s from %s: requests failed from %.1f s to %.1f s after its start", l.name, l.client.node, s.Failures[0].At.Sub(began).Seconds(), s.LastFailure.Sub(began).Seconds())
	}
	return s
}
