package standalone

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// flow calls a service whose split is three to one, one request after the other and without a pause, and keeps who
// answered; beside it, one TCP connection goes on all the time.
type flow struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	more    *sync.Cond // there are more answers
	answers []string   // guarded by mu
	failed  []error    // guarded by mu
}

func startFlow(t *testing.T, r *running) *flow {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	f := &flow{cancel: cancel, done: make(chan struct{})}
	f.more = sync.NewCond(&f.mu)
	web, echo := r.address(t, "web.shop", 80, topology.HTTP), openLines(t, r.address(t, "echo.shop", 7000, topology.TCP))
	client := &http.Client{Timeout: patience, Transport: &http.Transport{}}
	pace := time.NewTicker(time.Millisecond)
	go func() {
		defer close(f.done)
		defer client.CloseIdleConnections()
		defer pace.Stop()
		for ; ctx.Err() == nil; <-pace.C {
			answer, status, err := get(ctx, client, web)
			if ctx.Err() != nil {
				return
			}
			if err == nil && status != http.StatusOK {
				err = fmt.Errorf("status %d: %s", status, answer)
			}
			f.add(answer, err)
			f.add("", echo.echo())
		}
	}()
	return f
}

func (f *flow) add(answer string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err != nil:
		f.failed = append(f.failed, err)
	case answer != "":
		f.answers = append(f.answers, answer)
	}
	f.more.Broadcast()
}

// goOn waits for so many more answers; failures count.
func (f *flow) goOn(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for until := len(f.answers) + n; len(f.answers)+len(f.failed) < until; {
		f.more.Wait()
	}
}

// stop ends the flow. Not one call may have failed, and every four answers in a row are three of v1 and one of v2.
func (f *flow) stop(t *testing.T) {
	t.Helper()
	f.cancel()
	<-f.done
	if len(f.failed) > 0 {
		t.Errorf("%d calls failed, the first: %v", len(f.failed), f.failed[0])
	}
	for i := 0; i+4 <= len(f.answers); i += 4 {
		if cycle := strings.Join(f.answers[i:i+4], " "); strings.Count(cycle, "v1") != 3 || strings.Count(cycle, "v2") != 1 {
			t.Fatalf("answers %d to %d of %d came from %s, want three of v1 and one of v2", i, i+3, len(f.answers), cycle)
		}
	}
	t.Logf("%d requests", len(f.answers))
}

// shop is the part of the mesh that has to go on undisturbed.
func shop(t *testing.T) *running {
	t.Helper()
	v1, v2 := httpBackend(t, "127.0.0.1", "v1"), httpBackend(t, "127.0.0.1", "v2")
	r := start(t, map[string]string{
		"web.yaml":   service("web", "http", 80, v1),
		"v1.yaml":    service("web-v1", "http", 80, v1),
		"v2.yaml":    service("web-v2", "http", 80, v2),
		"split.yaml": split("a-web", "web", share("web-v1", 3), share("web-v2", 1)),
		"echo.yaml":  service("echo", "tcp-echo", 7000, echoBackend(t)),
		"other.yaml": service("other", "http", 80, v2),
	})
	r.awaitNoProblems(t)
	return r
}

// bad is input that makes no sense.
type bad struct {
	name    string
	content string
	object  string // kind and name of what has the problem
	reason  problem.Reason
}

func badInput() []bad {
	const group = "apiVersion: specs.smi-spec.io/v1alpha4\nkind: HTTPRouteGroup\nmetadata: {name: group, namespace: shop}\nspec: {matches: [{name: m, pathRegex: \"%s\"}]}\n"
	annotated := "apiVersion: v1\nkind: Service\nmetadata: {name: annotated, namespace: shop, annotations: {tulle.dev/timeout: %s}}\nspec: {ports: [{name: http, port: 80}]}\n"
	var conflicts strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&conflicts, "---\n%s", split(fmt.Sprintf("conflict-%04d", i), "web", share("web-v2", 1)))
	}
	return []bad{
		{name: "malformed YAML", content: "kind: [\n", object: "File zz.yaml#1", reason: problem.UnreadableFile},
		{name: "no objects", content: "- 1\n- 2\n", object: "File zz.yaml#1", reason: problem.UnreadableFile},
		{name: "no text", content: "\xff\xfe\x00k\x00i", object: "File zz.yaml#1", reason: problem.UnreadableFile},
		{name: "unknown kind", content: "apiVersion: shop.example/v1\nkind: Coffee\nmetadata: {name: c}\n", object: "Coffee c", reason: problem.UnknownKind},
		{name: "unknown SMI kind", content: "apiVersion: split.smi-spec.io/v1alpha9\nkind: TrafficSplit\nmetadata: {name: c}\n", object: "TrafficSplit c", reason: problem.UnknownKind},
		{name: "weight -1", content: split("bad", "other", share("web-v1", -1)), object: "TrafficSplit bad", reason: problem.InvalidWeight},
		{name: "weight 0.5", content: split("bad", "other", share("web-v1", 0.5)), object: "TrafficSplit bad", reason: problem.InvalidWeight},
		{name: "weight text", content: split("bad", "other", share("web-v1", "much")), object: "TrafficSplit bad", reason: problem.InvalidWeight},
		{name: "split to itself", content: split("bad", "other", share("other", 1)), object: "TrafficSplit bad", reason: problem.SelfReference},
		{name: "missing backend", content: split("bad", "other", share("nowhere", 1)), object: "TrafficSplit bad", reason: problem.BackendNotFound},
		{name: "all weights zero", content: split("bad", "other", share("web-v1", 0)), object: "TrafficSplit bad", reason: problem.AllWeightsZero},
		{name: "bad regex", content: fmt.Sprintf(group, "(["), object: "HTTPRouteGroup group", reason: problem.InvalidRegex},
		{name: "costly regex", content: fmt.Sprintf(group, strings.Repeat("(a{1,100}){1,100}", 20)), object: "HTTPRouteGroup group", reason: problem.InvalidRegex},
		{name: "1 MB annotation", content: fmt.Sprintf(annotated, strings.Repeat("x", 1<<20)), object: "Service annotated", reason: problem.InvalidAnnotation},
		{name: "1,000 conflicting splits", content: conflicts.String(), object: "TrafficSplit conflict-0000", reason: problem.ConflictingSplit},
		{name: "a service twice", content: service("web", "http", 80, 1), object: "Service web", reason: problem.DuplicateObject},
		{name: "a port that is no port", content: service("bad", "http", 70000, 1), object: "Service bad", reason: problem.InvalidService},
		{name: "endpoints of another namespace", content: foreign, object: "Service theft", reason: problem.EndpointRefused},
	}
}

// foreign is an EndpointSlice of one namespace that points at a pod of another one.
const foreign = `apiVersion: v1
kind: Pod
metadata: {name: till, namespace: bank}
status: {podIP: 127.0.0.9}
---
apiVersion: v1
kind: Service
metadata: {name: theft, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: theft, namespace: shop, labels: {kubernetes.io/service-name: theft}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [127.0.0.9]}]
`

// Whatever is wrong with one object is said of it and changes nothing else: while all of it comes and goes, every call of
// a service beside it is answered, and its split stays exact. Then a change of that split takes effect nonetheless.
func TestBadInput(t *testing.T) {
	r := shop(t)
	before := r.State().Services
	f := startFlow(t, r)
	for _, b := range badInput() {
		t.Run(b.name, func(t *testing.T) {
			r.write(t, "zz.yaml", b.content)
			for _, p := range r.awaitProblem(t, b.object, b.reason) {
				if len(p.Message) > 1024 || p.Message == "" {
					t.Errorf("a message of %d bytes", len(p.Message))
				}
			}
			f.goOn(20)
			if d := cmp.Diff(before, withoutNew(before, r.State().Services), cmpopts.EquateComparable(netip.Addr{})); d != "" {
				t.Errorf("other services changed (-before +now):\n%s", d)
			}
			r.remove(t, "zz.yaml")
			r.awaitNoProblems(t)
		})
	}
	f.goOn(20)
	f.stop(t)
}

// withoutNew are the services that were there before.
func withoutNew(before, now []Service) []Service {
	var out []Service
	for _, s := range now {
		for _, b := range before {
			if s.Name == b.Name {
				out = append(out, s)
			}
		}
	}
	return out
}

// All of it at once.
func TestBadInputTogether(t *testing.T) {
	r := shop(t)
	f := startFlow(t, r)
	for i, b := range badInput() {
		// Names that come after those of the shop's files: of two objects with one name the first is used.
		r.write(t, fmt.Sprintf("z%02d.yaml", i), b.content)
	}
	for _, b := range badInput() {
		if !strings.HasPrefix(b.object, "File ") && !strings.HasSuffix(b.object, " bad") {
			r.awaitProblem(t, b.object, b.reason)
		}
	}
	f.goOn(40)
	r.await(t, func(s State) error {
		n := 0
		for _, p := range s.Problems {
			if p.Reason == problem.ConflictingSplit && strings.HasPrefix(p.Object.Name, "conflict-") {
				n++
			}
		}
		if n != 1000 {
			return fmt.Errorf("%d of 1000 splits say that they conflict", n)
		}
		return nil
	})
	f.stop(t)

	// What is not broken can still be changed.
	r.write(t, "split.yaml", split("a-web", "web", share("web-v1", 0), share("web-v2", 1)))
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	web := r.address(t, "web.shop", 80, topology.HTTP)
	deadline := time.Now().Add(patience)
	for answer := ""; answer != "v2"; {
		var err error
		if answer, _, err = get(t.Context(), client, web); err != nil || time.Now().After(deadline) {
			t.Fatalf("%s answers a second after the split was changed: %v", answer, err)
		}
	}
}
