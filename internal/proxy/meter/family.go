package meter

import "sync"

// labels is a set of label values that names its service.
type labels[K any] interface {
	comparable
	// concerns says whether the set names a service, as the one called or as the backend.
	concerns(service string) bool
	// called is the service called, "namespace/name", empty if there was none.
	called() string
	// overflow is the set that takes what there is no room for, and what is about services that are gone.
	overflow() K
}

// family resolves label sets to series once, and bounds their number.
type family[K labels[K], S any] struct {
	max   int
	make  func(K) S
	spilt func()

	mu     sync.RWMutex
	series map[K]S // guarded by mu
}

func newFamily[K labels[K], S any](size int, spilt func(), mk func(K) S) *family[K, S] {
	return &family[K, S]{max: size, make: mk, spilt: spilt, series: map[K]S{}}
}

// get returns the series of k. known says whether a service still exists.
func (f *family[K, S]) get(k K, known func(string) bool) S {
	f.mu.RLock()
	s, ok := f.series[k]
	f.mu.RUnlock()
	if ok {
		return s
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if s, ok := f.series[k]; ok {
		return s
	}
	if name := k.called(); len(f.series) >= f.max || name != "" && !known(name) {
		f.spilt()
		k = k.overflow()
		if s, ok := f.series[k]; ok {
			return s
		}
	}
	s = f.make(k)
	f.series[k] = s
	return s
}

// forget drops the label sets that concern a service and calls drop for each.
func (f *family[K, S]) forget(service string, drop func(K)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for k := range f.series {
		if k.concerns(service) {
			delete(f.series, k)
			drop(k)
		}
	}
}
