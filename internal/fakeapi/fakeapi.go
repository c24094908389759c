// Package fakeapi is a small Kubernetes API server for tests: objects in memory behind real HTTP, so that real clients
// can be used. It knows get, list with label selectors, create, update, merge patch, server-side apply (as a replacement
// of what the applied object names) and delete; no watches, no validation, no conversion. A Server is safe for
// concurrent use.
package fakeapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Object is an object as JSON.
type Object = map[string]any

// Server holds objects. The zero value is not usable: see New.
type Server struct {
	// URL is where it serves.
	URL string
	// Version is the version that it says it is. Set it before the first request.
	Version string
	// OnWrite is called without locks after an object was created or changed; it may call Put and Remove. It stands for
	// the controllers of a cluster. Set it before the first request.
	OnWrite func(resource string, o Object)
	// Refuse makes a request fail if it returns an error, and an access review say no. Set it before the first request.
	Refuse func(verb, resource, namespace, name string) *apierrors.StatusError

	mu      sync.Mutex
	objects map[key]Object
	version int
	writes  []string
}

type key struct{ group, resource, namespace, name string }

// New starts a server that ends with the test.
func New(t *testing.T) *Server {
	s := &Server{Version: "v1.34.4", objects: map[key]Object{}}
	h := httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(h.Close)
	s.URL = h.URL
	return s
}

// Put stores an object as it is.
func (s *Server) Put(o Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := keyOf(o)
	s.store(k, o)
}

// Get returns an object, nil if there is none. It must not be changed.
func (s *Server) Get(resource, namespace, name string) Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, o := range s.objects {
		if k.resource == resource && k.namespace == namespace && k.name == name {
			return o
		}
	}
	return nil
}

// Remove removes an object.
func (s *Server) Remove(resource, namespace, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.objects, func(k key, _ Object) bool {
		return k.resource == resource && k.namespace == namespace && k.name == name
	})
}

// Names returns "resource namespace/name" of everything, sorted.
func (s *Server) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for k := range s.objects {
		out = append(out, k.resource+" "+strings.TrimPrefix(k.namespace+"/"+k.name, "/"))
	}
	slices.Sort(out)
	return out
}

// Writes returns what was changed by requests so far, and forgets it.
func (s *Server) Writes() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.writes
	s.writes = nil
	return out
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if s.discovery(w, r) {
		return
	}
	q, ok := parse(r)
	if kind, _ := listKind(q.key); !ok || kind == "List" {
		fail(w, apierrors.NewNotFound(schema.GroupResource{}, r.URL.Path))
		return
	}
	if s.Refuse != nil {
		if err := s.Refuse(q.verb, q.resource, q.namespace, q.name); err != nil {
			fail(w, err)
			return
		}
	}
	out, written, err := s.do(q)
	if err != nil {
		fail(w, err)
		return
	}
	if written != nil && s.OnWrite != nil {
		s.OnWrite(q.resource, written)
	}
	reply(w, http.StatusOK, out)
}

// do carries out a request; written is the object that it changed.
func (s *Server) do(q request) (out any, written Object, _ *apierrors.StatusError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.objects[q.key]
	gr := schema.GroupResource{Group: q.group, Resource: q.resource}
	if old == nil && (q.verb == "get" || q.verb == "update" || q.verb == "delete" || q.verb == "patch") {
		return nil, nil, apierrors.NewNotFound(gr, q.name)
	}
	switch q.verb {
	case "get":
		return old, nil, nil
	case "list":
		return s.list(q), nil, nil
	case "delete":
		delete(s.objects, q.key)
		s.writes = append(s.writes, fmt.Sprintf("delete %s %s", q.resource, q.name))
		return metav1.Status{Status: metav1.StatusSuccess}, nil, nil
	case "deletecollection":
		for _, o := range s.list(q).(Object)["items"].([]Object) {
			delete(s.objects, keyOf(o))
		}
		return metav1.Status{Status: metav1.StatusSuccess}, nil, nil
	case "review":
		return s.review(q), nil, nil
	case "create":
		q.name = nested(q.body, "metadata", "name")
		if s.objects[q.key] != nil {
			return nil, nil, apierrors.NewAlreadyExists(gr, q.name)
		}
	}
	next := merge(old, q.body)
	if q.dryRun {
		return next, nil, nil
	}
	if old != nil && same(old, next, q.verb == "update") {
		return old, nil, nil
	}
	s.store(q.key, next)
	s.writes = append(s.writes, fmt.Sprintf("%s %s %s", q.verb, q.resource, q.name))
	return next, next, nil
}

func (s *Server) list(q request) any {
	selector, err := labels.Parse(q.selector)
	if err != nil {
		selector = labels.Everything()
	}
	items := []Object{}
	for _, k := range slices.SortedFunc(maps.Keys(s.objects), func(a, b key) int { return strings.Compare(a.namespace+"/"+a.name, b.namespace+"/"+b.name) }) {
		o := s.objects[k]
		if k.group == q.group && k.resource == q.resource && (q.namespace == "" || k.namespace == q.namespace) &&
			q.selects(o) && selector.Matches(labels.Set(stringMap(o, "labels"))) {
			items = append(items, o)
		}
	}
	kind, version := listKind(q.key)
	return Object{"kind": kind, "apiVersion": version, "metadata": Object{"resourceVersion": strconv.Itoa(s.version)}, "items": items}
}

// store numbers the object's version.
func (s *Server) store(k key, o Object) {
	s.version++
	m, _ := o["metadata"].(map[string]any)
	m = maps.Clone(m)
	m["resourceVersion"] = strconv.Itoa(s.version)
	if m["uid"] == nil {
		m["uid"] = fmt.Sprintf("uid-%d", s.version)
	}
	o = maps.Clone(o)
	o["metadata"] = m
	s.objects[k] = o
}

// merge lays what the body names over the old object, at the first two levels.
func merge(old, body Object) Object {
	out := maps.Clone(old)
	if out == nil {
		out = Object{}
	}
	for k, v := range body {
		from, isMap := out[k].(map[string]any)
		to, too := v.(map[string]any)
		if isMap && too {
			m := maps.Clone(from)
			maps.Copy(m, to)
			v = m
		}
		out[k] = v
	}
	return out
}

// same compares objects; who owns which fields makes a difference only if a request says so.
func same(a, b Object, owners bool) bool {
	strip := func(o Object) Object {
		o = maps.Clone(o)
		m := maps.Clone(o["metadata"].(map[string]any))
		delete(m, "resourceVersion")
		if !owners {
			delete(m, "managedFields")
		}
		o["metadata"] = m
		return o
	}
	return reflect.DeepEqual(strip(a), strip(b))
}

func reply(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	// The client sees a cut body; the test then fails there.
	_ = json.NewEncoder(w).Encode(v)
}

func fail(w http.ResponseWriter, err *apierrors.StatusError) {
	status := err.Status()
	status.Kind, status.APIVersion = "Status", "v1"
	reply(w, int(status.Code), status)
}

func nested(o Object, path ...string) string {
	for _, p := range path[:len(path)-1] {
		o, _ = o[p].(map[string]any)
	}
	v, _ := o[path[len(path)-1]].(string)
	return v
}

func stringMap(o Object, name string) map[string]string {
	out := map[string]string{}
	m, _ := o["metadata"].(map[string]any)
	in, _ := m[name].(map[string]any)
	for k, v := range in {
		out[k], _ = v.(string)
	}
	return out
}
