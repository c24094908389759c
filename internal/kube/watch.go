package kube

import (
	"context"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// failures is after how many failures in a row (about 5 s) a kind counts as unreadable.
const failures = 3

// listable is a kind that a client can list and watch: a typed client's or a dynamic one's.
type listable[L runtime.Object] interface {
	List(ctx context.Context, opts metav1.ListOptions) (L, error)
	Watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error)
}

// watcher keeps a store up to date with what the API server has.
type watcher struct {
	name     string
	lw       cache.ListerWatcher
	expected any
	store    cache.ReflectorStore
	// optional kinds are not served by every cluster. If it is not there, the watch ends.
	optional bool
	// failing is called when the kind becomes unreadable and when it is readable again; may be nil.
	failing func(error)

	mu     sync.Mutex
	errors int
	last   error
	absent bool
	cancel context.CancelFunc
}

// newWatcher makes a watcher of the objects that the field selector names; "" = all.
func newWatcher[L runtime.Object](name string, client any, r listable[L], selector string, expected any, store cache.ReflectorStore) *watcher {
	w := &watcher{name: name, expected: expected, store: store}
	w.lw = cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			opts.FieldSelector = selector
			list, err := r.List(ctx, opts)
			w.note(err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
			opts.FieldSelector = selector
			events, err := r.Watch(ctx, opts)
			w.note(err)
			return events, err
		},
	}, client)
	return w
}

// run watches until ctx ends.
func (w *watcher) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.mu.Lock()
	w.cancel = cancel
	w.mu.Unlock()
	r := cache.NewReflectorWithOptions(w.lw, w.expected, w.store, cache.ReflectorOptions{Name: w.name})
	r.RunWithContext(ctx)
}

// note counts failures in a row.
func (w *watcher) note(err error) {
	w.mu.Lock()
	was := w.errors >= failures
	w.last = err
	switch {
	case err == nil:
		w.errors = 0
	case w.optional && apierrors.IsNotFound(err):
		w.absent = true
		w.cancel()
	case apierrors.IsResourceExpired(err) || apierrors.IsGone(err):
		// What every watch ends with now and then; the list that follows decides.
	default:
		w.errors++
	}
	is := w.errors >= failures
	w.mu.Unlock()
	if w.failing != nil && was != is {
		w.failing(err)
	}
}

// state says whether the cluster lacks the kind, and the error that keeps it from being read, if there is one.
func (w *watcher) state() (absent bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.absent, w.last
}
