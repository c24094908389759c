package kube

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
)

// named is what objects are kept by.
type named interface {
	GetNamespace() string
	GetName() string
}

func compare(a, b named) int {
	return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
}

// list has the objects of one kind, sorted by namespace and name. A reflector writes to it; readers get the slice itself,
// which is copied when it changes after that. So a snapshot costs nothing, and a change the copying of pointers.
type list[T named] struct {
	// keep makes of what the API server sent what is to be kept; false = nothing.
	keep func(obj any) (T, bool)
	// same says that an update changed nothing of what is kept; nil = every update counts.
	same func(a, b T) bool
	// changed is called without the lock.
	changed func()

	mu     sync.Mutex
	items  []T
	lent   bool
	synced bool
	waits  chan struct{} // closed at the next change, if somebody waits
}

// all returns the objects. The slice never changes.
func (l *list[T]) all() []T {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lent = true
	return l.items
}

// next returns a channel that is closed at the next change.
func (l *list[T]) next() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waits == nil {
		l.waits = make(chan struct{})
	}
	return l.waits
}

func (l *list[T]) get(namespace, name string) (T, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i, ok := l.search(namespace, name); ok {
		return l.items[i], true
	}
	var none T
	return none, false
}

func (l *list[T]) search(namespace, name string) (int, bool) {
	return slices.BinarySearchFunc(l.items, struct{}{}, func(o T, _ struct{}) int {
		return cmp.Or(cmp.Compare(o.GetNamespace(), namespace), cmp.Compare(o.GetName(), name))
	})
}

func (l *list[T]) isSynced() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.synced
}

// Add is called by the reflector, as are the methods below.
func (l *list[T]) Add(obj any) error { return l.Update(obj) }

// Update adds or replaces an object.
func (l *list[T]) Update(obj any) error {
	kept, ok := l.keep(obj)
	if !ok {
		return l.Delete(obj)
	}
	l.mu.Lock()
	i, found := l.search(kept.GetNamespace(), kept.GetName())
	quiet := found && l.same != nil && l.same(l.items[i], kept)
	l.own()
	if found {
		l.items[i] = kept
	} else {
		l.items = slices.Insert(l.items, i, kept)
	}
	l.unlock(!quiet)
	return nil
}

// Delete removes an object.
func (l *list[T]) Delete(obj any) error {
	o, ok := obj.(named)
	if !ok {
		return fmt.Errorf("delete %T: not an object", obj)
	}
	l.mu.Lock()
	i, found := l.search(o.GetNamespace(), o.GetName())
	if found {
		l.own()
		l.items = slices.Delete(l.items, i, i+1)
	}
	l.unlock(found)
	return nil
}

// Replace takes the objects of a new list.
func (l *list[T]) Replace(objs []any, _ string) error {
	items := make([]T, 0, len(objs))
	for _, obj := range objs {
		if kept, ok := l.keep(obj); ok {
			items = append(items, kept)
		}
	}
	slices.SortFunc(items, func(a, b T) int { return compare(a, b) })
	l.mu.Lock()
	quiet := l.synced && l.same != nil && slices.EqualFunc(l.items, items, func(a, b T) bool { return compare(a, b) == 0 && l.same(a, b) })
	l.items, l.lent, l.synced = items, false, true
	l.unlock(!quiet)
	return nil
}

// Resync is not needed: there are no periods.
func (l *list[T]) Resync() error { return nil }

// own makes sure that nobody else has the slice.
func (l *list[T]) own() {
	if l.lent {
		l.items, l.lent = slices.Clone(l.items), false
	}
}

// unlock also tells whoever waits, if there is something to tell.
func (l *list[T]) unlock(changed bool) {
	waits := l.waits
	if changed {
		l.waits = nil
	}
	l.mu.Unlock()
	if changed {
		if waits != nil {
			close(waits)
		}
		l.changed()
	}
}

// split is a store that keeps the objects of the mesh's namespace apart: they change when mesh addresses are written,
// and what is made from all the others need not be made again then.
type split[T named] struct {
	namespace string
	mesh      *list[T]
	others    *list[T]
}

func (s split[T]) of(obj any) *list[T] {
	if o, ok := obj.(named); ok && o.GetNamespace() == s.namespace {
		return s.mesh
	}
	return s.others
}

// Add is called by the reflector, as are the methods below.
func (s split[T]) Add(obj any) error { return s.of(obj).Add(obj) }

// Update adds or replaces an object.
func (s split[T]) Update(obj any) error { return s.of(obj).Update(obj) }

// Delete removes an object.
func (s split[T]) Delete(obj any) error { return s.of(obj).Delete(obj) }

// Replace takes the objects of a new list.
func (s split[T]) Replace(objs []any, version string) error {
	var mesh, others []any
	for _, obj := range objs {
		if s.of(obj) == s.mesh {
			mesh = append(mesh, obj)
		} else {
			others = append(others, obj)
		}
	}
	if err := s.mesh.Replace(mesh, version); err != nil {
		return err
	}
	return s.others.Replace(others, version)
}

// Resync is not needed: there are no periods.
func (s split[T]) Resync() error { return nil }

func (s split[T]) isSynced() bool { return s.mesh.isSynced() && s.others.isSynced() }

// all returns the objects of all namespaces, sorted.
func (s split[T]) all() []T {
	others, mesh := s.others.all(), s.mesh.all()
	i, _ := slices.BinarySearchFunc(others, s.namespace, func(o T, ns string) int { return cmp.Compare(o.GetNamespace(), ns) })
	return slices.Concat(others[:i], mesh, others[i:])
}
