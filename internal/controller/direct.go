package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/tulle-mesh/tulle/internal/bypass"
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/status"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// PolicyWriter writes NetworkPolicies. It is called on the leader only.
type PolicyWriter interface {
	// ApplyPolicies returns what the cluster refused as PolicyErrors, joined.
	ApplyPolicies(ctx context.Context, c bypass.Changes) error
}

// PolicyError is a NetworkPolicy that the cluster refused.
type PolicyError struct {
	Namespace, Name string
	Op              string // e.g. "create NetworkPolicy"
	Err             error
}

func (e *PolicyError) Error() string {
	return fmt.Sprintf("%s %s/%s: %v", e.Op, e.Namespace, e.Name, e.Err)
}

func (e *PolicyError) Unwrap() error { return e.Err }

// direct is what is known of calls past the mesh, on the leader. It is immutable.
type direct struct {
	workloads []status.Direct
	problems  []problem.Problem
}

const (
	// pace is the least time between two looks.
	pace = 100 * time.Millisecond
	// settle is how long a NetworkPolicy is unwanted before it goes: between the end of a workload's last pod and the first
	// endpoint of the next, nothing seems to be served. What could not be written is tried again after it, too.
	settle = 3 * time.Second
)

// guard sees to it that the way around the mesh is closed where that is wanted, and that it is known whether it is.
func (c *Controller) guard(ctx context.Context) {
	if c.Policies == nil {
		return
	}
	g := &guard{Controller: c, since: map[topology.Name]time.Time{}, aimed: make(chan struct{}, 1)}
	var prober sync.WaitGroup
	prober.Go(func() { g.probe(ctx) })
	defer c.direct.Store(nil)
	defer prober.Wait()
	again := time.NewTicker(settle)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
			if !g.pending {
				continue
			}
		case <-c.toGuard:
		}
		began := time.Now()
		if r := c.latest.Load(); r != nil {
			g.step(ctx, r)
		}
		// 5,000 workloads take a third of a second of CPU: that is to stay a small part of a core, whatever changes.
		if !wait(ctx, max(pace, 4*time.Since(began))) {
			return
		}
	}
}

// guard is the state of Controller.guard, and owned by its goroutine, but for what says otherwise.
type guard struct {
	*Controller
	since   map[topology.Name]time.Time // NetworkPolicies of ours that are wanted no more
	pending bool                        // there is something to do that no signal will tell of

	aims     atomic.Pointer[aims]            // what the prober is to try
	aimed    chan struct{}                   // there are new ones
	evidence atomic.Pointer[bypass.Evidence] // what the prober found; nil before it tried
	passes   int                             // of the prober, which owns it
}

// step looks at a round, writes what is to change and says how things are.
func (g *guard) step(ctx context.Context, r *round) {
	result, err := g.look(r)
	if err != nil {
		g.Log.Error("calls past the mesh are not looked at", "err", err)
		return
	}
	changes := g.due(bypass.Plan(g.Bypass.Namespace, result.Wanted, r.snapshot.Policies), time.Now())
	if !changes.Empty() {
		err := g.Policies.ApplyPolicies(ctx, changes)
		if err != nil && ctx.Err() == nil {
			g.Log.Warn("NetworkPolicies not written", "err", err)
			result.Problems = append(result.Problems, policyProblems(err)...)
		}
	}
	g.aim(r, result.Workloads)
	g.say(r, result)
}

// look makes a result of a round. It fails only by a bug. Where nothing is enforced, it costs nothing.
func (g *guard) look(r *round) (out bypass.Result, err error) {
	defer recovered("look at calls past the mesh", &err)
	resources := r.snapshot.Resources
	ours := func(p *networkingv1.NetworkPolicy) bool { return bypass.Ours(p, g.Bypass.Namespace) }
	if len(r.topology.Exposed) == 0 && !slices.ContainsFunc(r.snapshot.Policies, ours) {
		return out, nil
	}
	mode := sync.OnceValue(func() func(topology.Name) topology.AccessMode { return topology.Access(g.Topology, resources) })
	return bypass.Build(g.Bypass, bypass.Input{
		Exposed: r.topology.Exposed, Pods: resources.Pods, Namespaces: resources.Namespaces, ServiceAccounts: resources.ServiceAccounts,
		Owners: r.snapshot.Owners, Policies: r.snapshot.Policies,
		Enforced: func(n topology.Name) bool { return mode()(n) == topology.AccessEnforce },
	}), nil
}

// due leaves out deletions of what was wanted a moment ago.
func (g *guard) due(c bypass.Changes, now time.Time) bypass.Changes {
	since := map[topology.Name]time.Time{}
	var out []*networkingv1.NetworkPolicy
	for _, p := range c.Delete {
		name := topology.Name{Namespace: p.Namespace, Name: p.Name}
		if since[name] = g.since[name]; since[name].IsZero() {
			since[name] = now
		}
		if now.Sub(since[name]) >= settle {
			out = append(out, p)
		}
	}
	g.since, c.Delete = since, out
	g.pending = !c.Empty() || len(since) > 0
	return c
}

// policyProblems are of the NetworkPolicies that were refused.
func policyProblems(err error) []problem.Problem {
	var out []problem.Problem
	list := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		list = joined.Unwrap()
	}
	for _, err := range list {
		if e := (*PolicyError)(nil); errors.As(err, &e) {
			ref := problem.Ref{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy", Namespace: e.Namespace, Name: e.Name}
			out = append(out, problem.Newf(ref, problem.PolicyNotWritten, "%v", e))
		}
	}
	return out
}

// say stores the states, once something was tried: what a new leader does not know yet is not open for that.
func (g *guard) say(r *round, result bypass.Result) {
	next := &direct{problems: result.Problems}
	fillUIDs(next.problems, r.snapshot.Resources)
	evidence := g.evidence.Load()
	if evidence == nil && len(result.Workloads) > 0 {
		return
	}
	for i := range result.Workloads {
		w := &result.Workloads[i]
		state, why := w.Judge(*evidence)
		next.workloads = append(next.workloads, status.Direct{Workload: w.Name.String(), Mode: string(w.Mode), State: string(state), Except: w.Except, Why: why})
	}
	g.Metrics.direct(next.workloads)
	if was := g.direct.Swap(next); was == nil || !reflect.DeepEqual(was, next) {
		signal(g.toTell)
	}
}

// known is what the leader knows of calls past the mesh.
func (c *Controller) known() direct {
	if d := c.direct.Load(); d != nil {
		return *d
	}
	return direct{}
}

// nodesOf are the nodes of all workloads, sorted.
func nodesOf(workloads []bypass.Workload) []string {
	nodes := map[string]bool{}
	for i := range workloads {
		for _, n := range workloads[i].Nodes {
			nodes[n] = true
		}
	}
	return slices.Sorted(maps.Keys(nodes))
}
