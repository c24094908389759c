package controller

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/status"
)

// tell writes the mesh's state down and makes Events of new problems, on the leader.
func (c *Controller) tell(ctx context.Context) {
	var last status.Leader
	for c.paced(ctx, c.toTell, c.RecordEvery/2) {
		r := c.latest.Load()
		if r == nil {
			continue
		}
		dns, wrong := c.dns()
		problems := c.allProblems(r, wrong)
		c.Metrics.problems(problems)
		if doc := c.leaderStatus(r, dns, problems); !r.snapshot.LeaderRecorded || !reflect.DeepEqual(doc, last) {
			written := doc
			written.Updated = time.Now().UTC()
			if c.done(ctx, "state not written down", c.toTell, c.Recorder.RecordLeader(ctx, written)) {
				last = doc
			}
		}
		more, err := c.Reporter.Report(ctx, problems)
		if c.done(ctx, "problems not reported", c.toTell, err) && more {
			signal(c.toTell)
		}
	}
}

// done logs an error and sees to it that there is another try; false if there was one.
func (c *Controller) done(ctx context.Context, what string, again chan struct{}, err error) bool {
	if err != nil && ctx.Err() == nil {
		c.Log.Warn(what, "err", err) //nolint:sloglint // one of two constants
		if wait(ctx, c.RecordEvery) {
			signal(again)
		}
	}
	return err == nil
}

// noteReplica writes down which proxies are connected to this replica.
func (c *Controller) noteReplica(ctx context.Context) {
	var last status.Replica
	for c.paced(ctx, c.toNote, c.RecordEvery) {
		r := c.latest.Load()
		if r == nil {
			continue
		}
		doc := status.Replica{Pod: c.Pod, Version: c.Version, Started: c.started.UTC(), ConfigVersion: r.version, Proxies: c.Proxies.Connected()}
		if slices.ContainsFunc(doc.Proxies, func(p status.Proxy) bool { return !p.Current }) {
			// Nobody tells when a proxy has caught up.
			signal(c.toNote)
		}
		if r.snapshot.ReplicaRecorded && reflect.DeepEqual(doc, last) {
			continue
		}
		written := doc
		written.Updated = time.Now().UTC()
		if c.done(ctx, "state not written down", c.toNote, c.Recorder.RecordReplica(ctx, written)) {
			last = doc
		}
	}
}

// paced waits for a signal, and then for a moment, as more signals usually follow. It returns false when ctx ends.
func (c *Controller) paced(ctx context.Context, signals <-chan struct{}, pace time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-signals:
	}
	return wait(ctx, pace)
}

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// allProblems are those of the round, of the plan and others, sorted, each once.
func (c *Controller) allProblems(r *round, more []problem.Problem) []problem.Problem {
	out := slices.Concat(r.problems, more, c.known().problems)
	if p := c.planned.Load(); p != nil {
		out = append(out, p.problems...)
	}
	slices.SortFunc(out, problem.Problem.Compare)
	return slices.Compact(out)
}

func (c *Controller) dns() (*status.DNS, []problem.Problem) {
	if c.DNS == nil {
		return nil, nil
	}
	return c.DNS()
}

func (c *Controller) leaderStatus(r *round, dns *status.DNS, problems []problem.Problem) status.Leader {
	doc := status.Leader{
		Pod: c.Pod, Version: c.Version, ConfigVersion: r.version, DNS: dns, ProblemCount: len(problems), Addresses: c.addresses(r),
		Identity: c.identity(r), Direct: c.known().workloads,
	}
	if c.Engine != nil {
		doc.Engine = new(c.Engine.Status())
	}
	doc.Controllers = append(doc.Controllers, c.Pod)
	for _, other := range r.snapshot.Replicas {
		doc.Controllers = append(doc.Controllers, other.Pod)
	}
	slices.Sort(doc.Controllers)
	for _, p := range problems {
		doc.Problems = append(doc.Problems, status.FromProblem(p))
	}
	return doc
}

// identity says by what proxies know each other; nil if they don't, as those of another engine.
func (c *Controller) identity(r *round) *status.Identity {
	if c.Trust == nil || c.Engine != nil {
		return nil
	}
	out := &status.Identity{Mode: "spire", Roots: len(c.Trust().GetRoots())}
	if c.CAEnds != nil {
		out.Mode, out.CAEnds = "tulle", c.CAEnds().UTC().Truncate(time.Second)
	}
	ready, tunnels := map[string]bool{}, map[string]bool{} // by node
	for _, p := range r.snapshot.Proxies {
		if p.Ready {
			ready[p.Node], tunnels[p.Node] = true, tunnels[p.Node] || p.Tunnels
		}
	}
	nodes := map[string]bool{} // with pods
	for _, caller := range r.topology.Callers {
		nodes[caller.Node] = true
	}
	for _, node := range slices.Sorted(maps.Keys(nodes)) {
		switch {
		case tunnels[node]:
			continue
		case ready[node]:
			out.PlainNodes++
			continue
		}
		if out.NodesWithoutProxy++; len(out.WithoutProxy) < status.MaxNodes {
			out.WithoutProxy = append(out.WithoutProxy, node)
		}
	}
	return out
}

// addresses counts the mesh addresses of a round.
func (c *Controller) addresses(r *round) status.Addresses {
	a := status.Addresses{Mode: "dedicated"}
	if c.Shadow.SharedHTTP {
		a.Mode = "shared"
	}
	for _, s := range r.topology.Services {
		if s.Backend {
			continue
		}
		a.Services++
		unit := r.assigned.Units[shadow.Unit{Name: s.Name, Pod: s.Pod}]
		if len(unit.Addresses) > 0 {
			a.Assigned++
		}
		if unit.Shared {
			a.Shared++
		}
	}
	for _, s := range r.snapshot.Shadow.Services {
		if s.Name != shadow.SharedName {
			a.Dedicated++
		}
	}
	nodes := map[string]bool{}
	for _, p := range r.snapshot.Proxies {
		a.Proxies++
		if p.Ready {
			a.Ready++
			nodes[p.Node] = true
		}
	}
	a.Nodes = len(nodes)
	return a
}
