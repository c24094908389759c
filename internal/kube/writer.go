package kube

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/tulle-mesh/tulle/internal/controller"
	"github.com/tulle-mesh/tulle/internal/shadow"
)

// WriterConfig is what a Writer needs. Client, Namespace and Source are required.
type WriterConfig struct {
	Client    kubernetes.Interface // with a rate of its own
	Namespace string               // the mesh's
	Source    *Source
	Workers   int // writes at once; default 8
	// Budget is how long a batch goes on; what is left is planned anew, of what is known by then. Default 1 s.
	Budget time.Duration
	// Sight is how long to wait for the Source to see what was written. Default 5 s.
	Sight time.Duration
}

// Writer is a controller.Writer.
type Writer struct{ config WriterConfig }

// NewWriter makes a Writer.
func NewWriter(c WriterConfig) *Writer {
	c.Workers = cmp.Or(c.Workers, 8)
	c.Budget, c.Sight = cmp.Or(c.Budget, time.Second), cmp.Or(c.Sight, 5*time.Second)
	return &Writer{config: c}
}

// Apply writes the Services, each with its slices, then deletes. Conflicts are no errors: somebody else was faster, and
// the next plan will know.
func (w *Writer) Apply(ctx context.Context, c shadow.Changes) (written int, err error) {
	b := &batch{Writer: w, until: time.Now().Add(w.config.Budget)}
	if b.run(ctx, b.writes(c)) {
		b.run(ctx, b.deletions(c))
	}
	written = len(b.seen)
	b.await(ctx)
	return written, errors.Join(b.errs...)
}

// batch is one Apply.
type batch struct {
	*Writer
	until time.Time

	mu   sync.Mutex
	errs []error
	seen []func() bool // of what was written: whether the Source has seen it
}

// writes are one job for each shadow Service, in the order of their names.
func (b *batch) writes(c shadow.Changes) []func(context.Context) {
	jobs := map[string][]func(context.Context) bool{}
	for _, s := range c.CreateServices {
		jobs[s.Name] = append(jobs[s.Name], func(ctx context.Context) bool { return b.createService(ctx, s) })
	}
	for _, s := range c.UpdateServices {
		jobs[s.Name] = append(jobs[s.Name], func(ctx context.Context) bool { return b.updateService(ctx, s) })
	}
	for _, s := range c.CreateSlices {
		name := s.Labels[discoveryv1.LabelServiceName]
		jobs[name] = append(jobs[name], func(ctx context.Context) bool { return b.createSlice(ctx, s) })
	}
	for _, s := range c.UpdateSlices {
		name := s.Labels[discoveryv1.LabelServiceName]
		jobs[name] = append(jobs[name], func(ctx context.Context) bool { return b.updateSlice(ctx, s) })
	}
	names := make([]string, 0, len(jobs))
	for name := range jobs {
		names = append(names, name)
	}
	slices.Sort(names)
	out := make([]func(context.Context), 0, len(names))
	for _, name := range names {
		out = append(out, func(ctx context.Context) {
			for _, write := range jobs[name] {
				if !write(ctx) {
					return
				}
			}
		})
	}
	return out
}

func (b *batch) deletions(c shadow.Changes) []func(context.Context) {
	var out []func(context.Context)
	for _, s := range c.DeleteServices {
		out = append(out, func(ctx context.Context) { b.deleteService(ctx, s) })
	}
	for _, s := range c.DeleteSlices {
		out = append(out, func(ctx context.Context) { b.deleteSlice(ctx, s) })
	}
	return out
}

// run does the jobs, several at once. It returns false if it did not get to the end of them in time.
func (b *batch) run(ctx context.Context, jobs []func(context.Context)) bool {
	next := make(chan func(context.Context))
	var workers sync.WaitGroup
	for range min(b.config.Workers, len(jobs)) {
		workers.Go(func() {
			for job := range next {
				job(ctx)
			}
		})
	}
	defer workers.Wait()
	defer close(next)
	for _, job := range jobs {
		if ctx.Err() != nil || time.Now().After(b.until) {
			return false
		}
		next <- job
	}
	return true
}

func (b *batch) createService(ctx context.Context, s *corev1.Service) bool {
	got, err := b.config.Client.CoreV1().Services(b.config.Namespace).Create(ctx, s, metav1.CreateOptions{})
	return b.wrote("create Service", s.Name, got, err)
}

func (b *batch) updateService(ctx context.Context, s *corev1.Service) bool {
	got, err := b.config.Client.CoreV1().Services(b.config.Namespace).Update(ctx, s, metav1.UpdateOptions{})
	return b.wrote("update Service", s.Name, got, err)
}

func (b *batch) createSlice(ctx context.Context, s *discoveryv1.EndpointSlice) bool {
	got, err := b.config.Client.DiscoveryV1().EndpointSlices(b.config.Namespace).Create(ctx, s, metav1.CreateOptions{})
	return b.wrote("create EndpointSlice of", s.Labels[discoveryv1.LabelServiceName], got, err)
}

func (b *batch) updateSlice(ctx context.Context, s *discoveryv1.EndpointSlice) bool {
	got, err := b.config.Client.DiscoveryV1().EndpointSlices(b.config.Namespace).Update(ctx, s, metav1.UpdateOptions{})
	return b.wrote("update EndpointSlice of", s.Labels[discoveryv1.LabelServiceName], got, err)
}

func (b *batch) deleteService(ctx context.Context, s *corev1.Service) {
	err := b.config.Client.CoreV1().Services(b.config.Namespace).Delete(ctx, s.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID}})
	b.deleted("delete Service", s.Name, s, err)
}

func (b *batch) deleteSlice(ctx context.Context, s *discoveryv1.EndpointSlice) {
	err := b.config.Client.DiscoveryV1().EndpointSlices(b.config.Namespace).Delete(ctx, s.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID}})
	b.deleted("delete EndpointSlice of", s.Labels[discoveryv1.LabelServiceName], s, err)
}

// wrote notes a write. It returns false if what belongs to it need not be tried.
func (b *batch) wrote(op, of string, got metav1.Object, err error) bool {
	if err == nil {
		b.mu.Lock()
		b.seen = append(b.seen, func() bool { return b.config.Source.hasSeen(got) })
		b.mu.Unlock()
		return true
	}
	// Somebody else wrote in between. The next plan is made of what they wrote.
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) && strings.HasPrefix(op, "update") {
		return true
	}
	b.failed(op, of, err)
	return false
}

func (b *batch) deleted(op, of string, o metav1.Object, err error) {
	switch {
	case err == nil:
		b.mu.Lock()
		b.seen = append(b.seen, func() bool { return b.config.Source.hasLost(o) })
		b.mu.Unlock()
	case !apierrors.IsConflict(err) && !apierrors.IsNotFound(err):
		b.failed(op, of, err)
	}
}

func (b *batch) failed(op, of string, err error) {
	final := apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsBadRequest(err)
	ending := apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
	e := &controller.WriteError{Shadow: of, Op: op, Err: err, Transient: !final || ending}
	b.mu.Lock()
	b.errs = append(b.errs, e)
	b.mu.Unlock()
}

// await waits until the Source has seen what was written: a plan of what was there before would write it again.
func (b *batch) await(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, b.config.Sight)
	defer cancel()
	for len(b.seen) > 0 {
		services, endpoints := b.config.Source.services.mesh.next(), b.config.Source.endpoints.mesh.next()
		b.seen = slices.DeleteFunc(b.seen, func(seen func() bool) bool { return seen() })
		if len(b.seen) == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-services:
		case <-endpoints:
		}
	}
}

// hasSeen says whether a Service or slice of the mesh's namespace is in the caches as it was written, or newer, or gone
// again.
func (s *Source) hasSeen(o metav1.Object) bool {
	have, ok := s.cached(o)
	return ok && (have.GetUID() != o.GetUID() || !older(have.GetResourceVersion(), o.GetResourceVersion()))
}

// hasLost says whether an object is no longer in the caches.
func (s *Source) hasLost(o metav1.Object) bool {
	have, ok := s.cached(o)
	return !ok || have.GetUID() != o.GetUID()
}

func (s *Source) cached(o metav1.Object) (metav1.Object, bool) {
	if _, ok := o.(*corev1.Service); ok {
		return s.services.mesh.get(o.GetNamespace(), o.GetName())
	}
	return s.endpoints.mesh.get(o.GetNamespace(), o.GetName())
}

// older compares resource versions, which are numbers in every API server that there is; where not, they are only equal
// or not.
func older(have, want string) bool {
	h, err1 := strconv.ParseUint(have, 10, 64)
	w, err2 := strconv.ParseUint(want, 10, 64)
	if err1 != nil || err2 != nil {
		return have != want
	}
	return h < w
}
