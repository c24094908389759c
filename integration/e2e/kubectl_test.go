package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// run is kubectl; the test ends if it fails.
func (e *env) run(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), rolloutTimeout)
	defer cancel()
	out, err := e.kubectl.Run(ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// try is kubectl for commands that may fail.
func (e *env) try(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), execTimeout)
	defer cancel()
	return e.kubectl.Run(ctx, args...)
}

// apply applies YAML, into the namespace where it names none.
func (e *env) apply(t *testing.T, namespace, yaml string) {
	t.Helper()
	if err := e.tryApply(t, namespace, yaml); err != nil {
		t.Fatal(err)
	}
}

func (e *env) tryApply(t *testing.T, namespace, yaml string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), execTimeout)
	defer cancel()
	_, err := e.kubectl.Apply(ctx, yaml, "-n", namespace, "apply", "-f", "-")
	return err
}

// file reads testdata and puts values in the places of their names: file(t, "web.yaml", "$NAME", "web").
func file(t *testing.T, name string, oldnew ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer(oldnew...).Replace(string(b))
}

// namespace makes a namespace that goes with the test. Pods may be applied to it at once.
func (e *env) namespace(t *testing.T, name string, labels ...string) string {
	t.Helper()
	e.apply(t, "default", fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %s, labels: {%s}}}", name, strings.Join(labels, ", ")))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), execTimeout)
		defer cancel()
		if _, err := e.kubectl.Run(ctx, "delete", "namespace", name, "--wait=false", "--ignore-not-found"); err != nil {
			t.Error(err)
		}
	})
	e.eventually(t, "the default ServiceAccount of "+name, func() error {
		_, err := e.try(t, "-n", name, "get", "serviceaccount", "default")
		return err
	})
	return name
}

// rollout waits until Deployments, DaemonSets or StatefulSets ("deployment/web") are as they should be.
func (e *env) rollout(t *testing.T, namespace string, names ...string) {
	t.Helper()
	for _, n := range names {
		e.run(t, "-n", namespace, "rollout", "status", n, "--timeout="+rolloutTimeout.String())
	}
}

// eventually polls until the condition holds.
func (e *env) eventually(t *testing.T, what string, condition func() error) {
	t.Helper()
	e.inARow(t, what, 1, settleTimeout, condition)
}

// history is what a condition said, and when it began to: the last changes.
type history struct {
	said  string
	lines []string
}

func (h *history) add(at time.Duration, err error) {
	said := "holds"
	if err != nil {
		said = err.Error()
	}
	if said == h.said {
		return
	}
	const most = 50
	h.said = said
	h.lines = append(h.lines[max(0, len(h.lines)-most+1):], fmt.Sprintf("\n\t%.1fs: %s", at.Seconds(), said))
}

func (h *history) String() string { return strings.Join(h.lines, "") }

// inARow polls until the condition has held n times one after the other: what is true once may not be true to stay.
func (e *env) inARow(t *testing.T, what string, n int, timeout time.Duration, condition func() error) {
	t.Helper()
	began, held := time.Now(), 0
	var saw history
	for {
		err := condition()
		if held++; err != nil {
			held = 0
		}
		if held == n {
			return
		}
		saw.add(time.Since(began), err)
		if time.Since(began) > timeout {
			t.Fatalf("%s: not %d times in a row within %v:%s", what, n, timeout, &saw)
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("%s: %v", what, t.Context().Err())
		case <-time.After(pollEvery):
		}
	}
}
