package kube

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tulle-mesh/tulle/internal/problem"
)

func someProblem(name, message string) problem.Problem {
	return problem.Problem{
		Object: problem.Ref{APIVersion: "split.smi-spec.io/v1alpha4", Kind: "TrafficSplit", Namespace: "shop", Name: name, UID: "uid-" + name},
		Reason: problem.BackendNotFound, Message: message,
	}
}

// reporting runs a test where time is simulated, with a Reporter.
func reporting(t *testing.T, f func(t *testing.T, client *fake.Clientset, report func(...problem.Problem) bool)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		r := NewReporter(ReporterConfig{Client: client, Pod: "c-1"})
		f(t, client, func(p ...problem.Problem) bool {
			t.Helper()
			more, err := r.Report(t.Context(), p)
			if err != nil {
				t.Error(err)
			}
			return more
		})
	})
}

func events(t *testing.T, client *fake.Clientset, namespace string) []corev1.Event {
	t.Helper()
	list, err := client.CoreV1().Events(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

func TestEventIsOnTheObject(t *testing.T) {
	reporting(t, func(t *testing.T, client *fake.Clientset, report func(...problem.Problem) bool) {
		report(someProblem("web", "no such service"))
		got := events(t, client, "shop")
		if len(got) != 1 {
			t.Fatalf("%d events", len(got))
		}
		e := got[0]
		// What `kubectl describe` selects by.
		if o := e.InvolvedObject; o.Kind != "TrafficSplit" || o.Name != "web" || o.Namespace != "shop" || o.UID != "uid-web" || o.APIVersion != "split.smi-spec.io/v1alpha4" {
			t.Errorf("it is about %+v", o)
		}
		if e.Type != "Warning" || e.Reason != "BackendNotFound" || e.Message != "no such service" || e.Count != 1 || e.Source.Component != "tulle-controller" || e.LastTimestamp.IsZero() {
			t.Errorf("event: %+v", e)
		}
	})
}

func TestObjectsWithoutNamespaceHaveTheirEventsInDefault(t *testing.T) {
	reporting(t, func(t *testing.T, client *fake.Clientset, report func(...problem.Problem) bool) {
		p := someProblem(strings.Repeat("x", 253), "m")
		p.Object.Namespace = ""
		report(p)
		if got := events(t, client, "default"); len(got) != 1 || len(got[0].Name) > 253 {
			t.Errorf("%d events", len(got))
		}
	})
}

func TestEventsAreNotRepeated(t *testing.T) {
	reporting(t, func(t *testing.T, client *fake.Clientset, report func(...problem.Problem) bool) {
		p := someProblem("web", "no such service")
		writes := func() int { return len(client.Actions()) }
		report(p)
		for range 100 {
			report(p)
		}
		if writes() != 1 {
			t.Errorf("%d writes for one problem", writes())
		}
		// It comes and goes: not more often than every ten minutes.
		for range 9 {
			time.Sleep(time.Minute) //nolint:forbidigo // simulated time
			report()
			report(p)
		}
		if writes() != 1 {
			t.Errorf("%d writes for one problem that comes and goes", writes())
		}
		// It stays: again before the API server forgets it.
		client.ClearActions()
		for range 120 {
			time.Sleep(time.Minute) //nolint:forbidigo // simulated time
			report(p)
		}
		got := events(t, client, "shop")
		if len(got) != 1 || got[0].Count < 4 || got[0].Count > 6 {
			t.Errorf("events: %+v", got)
		}
		// It is another problem.
		report(someProblem("web", "other"))
		if n := len(events(t, client, "shop")); n != 2 {
			t.Errorf("%d events", n)
		}
	})
}

func TestAProblemThatComesBackLaterIsToldAgain(t *testing.T) {
	reporting(t, func(t *testing.T, client *fake.Clientset, report func(...problem.Problem) bool) {
		p := someProblem("web", "no such service")
		report(p)
		time.Sleep(11 * time.Minute) //nolint:forbidigo // simulated time
		report()
		report(p)
		if got := events(t, client, "shop"); len(got) != 1 || got[0].Count != 2 {
			t.Errorf("events: %+v", got)
		}
	})
}

func TestManyProblemsAreToldInBatches(t *testing.T) {
	reporting(t, func(t *testing.T, client *fake.Clientset, report func(...problem.Problem) bool) {
		var all []problem.Problem
		for i := range 250 {
			all = append(all, someProblem(fmt.Sprint("web-", i), "m"))
		}
		calls := 1
		for report(all...) {
			calls++
		}
		if n := len(events(t, client, "shop")); n != 250 || calls != 3 {
			t.Errorf("%d events in %d calls", n, calls)
		}
	})
}

func TestEventsThatCannotBeWritten(t *testing.T) {
	client := fake.NewClientset()
	r := NewReporter(ReporterConfig{Client: client, Pod: "c-1"})
	var answer error
	client.PrependReactor("create", "events", func(clienttesting.Action) (bool, runtime.Object, error) { return answer != nil, nil, answer })
	p := someProblem("web", "m")
	tries := func() int { return len(client.Actions()) }

	answer = apierrors.NewServiceUnavailable("later")
	for range 2 {
		if _, err := r.Report(t.Context(), []problem.Problem{p}); err == nil {
			t.Error("no error")
		}
	}
	if tries() != 2 {
		t.Errorf("%d tries of what may work later", tries())
	}
	answer = apierrors.NewForbidden(corev1.Resource("events"), "x", errors.New("the namespace is being terminated"))
	for range 2 {
		_, _ = r.Report(t.Context(), []problem.Problem{p})
	}
	if tries() != 3 {
		t.Errorf("%d tries of what will not work", tries())
	}
}
