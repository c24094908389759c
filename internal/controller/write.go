package controller

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/shadow"
)

const (
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
	// patience is how many times a write may fail in passing before it is a Problem.
	patience = 3
)

// plan is what came of planning a round.
type plan struct {
	pending  int // writes that were left to do
	problems []problem.Problem
}

// planAndWrite makes the cluster hold what the newest round wants.
func (c *Controller) planAndWrite(ctx context.Context) {
	w := &writing{Controller: c, retries: map[string]*retry{}}
	wake := time.NewTimer(0)
	defer wake.Stop()
	<-wake.C
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake.C:
			// Time has passed: plan again, of a round that is as new.
			signal(c.again)
			continue
		case <-c.toPlan:
		}
		// A round that was begun before the last write was seen knows too little: there will be another.
		if r := c.latest.Load(); r != nil && r.number >= w.least {
			if next := w.step(ctx, r); !next.IsZero() {
				wake.Reset(max(0, time.Until(next)))
			}
		}
	}
}

// writing is the state of planAndWrite. It is owned by that goroutine.
type writing struct {
	*Controller
	least   uint64 // the first round that knows what was written
	retries map[string]*retry
}

// retry is a shadow Service that could not be written.
type retry struct {
	err    *WriteError
	failed int
	until  time.Time
}

// step plans a round and writes what is to change. It returns when to plan again if nothing changes before.
func (w *writing) step(ctx context.Context, r *round) (next time.Time) {
	changes, problems, err := w.plan(r)
	if err != nil {
		w.Log.Error("mesh addresses stay what they were", "err", err)
		w.keep(&plan{problems: []problem.Problem{problem.Newf(w.ownRef(), problem.InternalError, "%v", firstLine(err))}})
		return time.Time{}
	}
	now := time.Now()
	due := w.due(changes, now)
	if !due.Empty() {
		began := now
		written, err := w.Writer.Apply(ctx, due)
		now = time.Now()
		w.Metrics.wrote(written, now.Sub(began), err)
		if ctx.Err() == nil {
			w.note(due, err, now)
		}
		// What was written makes a difference, and what was left to do is to be done. If nothing was, others were faster:
		// what they wrote is on its way.
		if written > 0 {
			w.least = w.rounds.Load() + 1
			signal(w.again)
		} else {
			next = now.Add(firstRetry)
		}
	}
	w.prune(changes)
	problems = append(problems, w.problems(r)...)
	fillUIDs(problems, r.snapshot.Resources)
	w.Metrics.pending.Set(float64(changes.Len()))
	w.keep(&plan{pending: changes.Len(), problems: problems})
	if next.IsZero() || !changes.Next.IsZero() && changes.Next.Before(next) {
		next = changes.Next
	}
	for _, t := range w.retries {
		if t.until.After(now) && (next.IsZero() || t.until.Before(next)) {
			next = t.until
		}
	}
	return next
}

func (w *writing) plan(r *round) (c shadow.Changes, p []problem.Problem, err error) {
	defer recovered("plan mesh addresses", &err)
	config := w.Shadow
	config.Now = time.Now()
	c, p = shadow.Plan(config, r.topology, r.snapshot.Shadow, r.snapshot.Proxies, r.busy)
	return c, p, nil
}

func (w *writing) keep(p *plan) {
	was := w.planned.Swap(p)
	if was == nil || was.pending != p.pending || !slices.Equal(was.problems, p.problems) {
		signal(w.toTell)
	}
}

// due leaves out what failed and is not to be tried again yet.
func (w *writing) due(c shadow.Changes, now time.Time) shadow.Changes {
	if len(w.retries) == 0 {
		return c
	}
	waits := func(name string) bool { t := w.retries[name]; return t != nil && now.Before(t.until) }
	services := func(list []*corev1.Service) []*corev1.Service {
		return slices.DeleteFunc(slices.Clone(list), func(s *corev1.Service) bool { return waits(s.Name) })
	}
	endpoints := func(list []*discoveryv1.EndpointSlice) []*discoveryv1.EndpointSlice {
		return slices.DeleteFunc(slices.Clone(list), func(s *discoveryv1.EndpointSlice) bool { return waits(s.Labels[discoveryv1.LabelServiceName]) })
	}
	c.CreateServices, c.UpdateServices, c.DeleteServices = services(c.CreateServices), services(c.UpdateServices), services(c.DeleteServices)
	c.CreateSlices, c.UpdateSlices, c.DeleteSlices = endpoints(c.CreateSlices), endpoints(c.UpdateSlices), endpoints(c.DeleteSlices)
	return c
}

// note remembers what failed.
func (w *writing) note(due shadow.Changes, err error, now time.Time) {
	failed := writeErrors(err)
	for name := range names(due) {
		if failed[name] == nil {
			delete(w.retries, name)
		}
	}
	for name, e := range failed {
		t := w.retries[name]
		if t == nil {
			t = &retry{}
			w.retries[name] = t
		}
		t.err = e
		t.until = now.Add(min(firstRetry<<min(t.failed, 10), lastRetry))
		t.failed++
		w.Log.Warn("mesh address not written", "name", name, "err", e)
	}
}

// prune forgets failures of what is not to be written any more.
func (w *writing) prune(c shadow.Changes) {
	if len(w.retries) > 0 {
		wanted := names(c)
		maps.DeleteFunc(w.retries, func(name string, _ *retry) bool { return !wanted[name] })
	}
}

// problems are of the services whose mesh addresses could not be written.
func (w *writing) problems(r *round) []problem.Problem {
	if len(w.retries) == 0 {
		return nil
	}
	var out []problem.Problem
	add := func(ref problem.Ref, t *retry) {
		if t != nil && (!t.err.Transient || t.failed >= patience) {
			out = append(out, problem.Newf(ref, problem.AddressNotWritten, "%v", t.err))
		}
	}
	for _, s := range r.topology.Services {
		name := shadow.ServiceName(shadow.Unit{Name: s.Name, Pod: s.Pod})
		add(problem.Ref{APIVersion: "v1", Kind: "Service", Namespace: s.Name.Namespace, Name: s.Name.Name}, w.retries[name])
	}
	add(problem.Ref{APIVersion: "v1", Kind: "Service", Namespace: w.Shadow.Namespace, Name: shadow.SharedName}, w.retries[shadow.SharedName])
	return out
}

// names are of the shadow Services that changes are about.
func names(c shadow.Changes) map[string]bool {
	out := map[string]bool{}
	for _, list := range [][]*corev1.Service{c.CreateServices, c.UpdateServices, c.DeleteServices} {
		for _, s := range list {
			out[s.Name] = true
		}
	}
	for _, list := range [][]*discoveryv1.EndpointSlice{c.CreateSlices, c.UpdateSlices, c.DeleteSlices} {
		for _, s := range list {
			out[s.Labels[discoveryv1.LabelServiceName]] = true
		}
	}
	return out
}

// writeErrors finds the WriteErrors that are joined in err, by shadow Service.
func writeErrors(err error) map[string]*WriteError {
	out := map[string]*WriteError{}
	var walk func(error)
	walk = func(err error) {
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range joined.Unwrap() {
				walk(e)
			}
			return
		}
		if e := (*WriteError)(nil); errors.As(err, &e) {
			out[e.Shadow] = cmp.Or(out[e.Shadow], e)
		}
	}
	if err != nil {
		walk(err)
	}
	return out
}
