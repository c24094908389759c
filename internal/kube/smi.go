package kube

import (
	"bytes"
	"context"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/smi"
)

// definitions is where the cluster says which kinds it serves.
var definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// smiKinds are the kinds that the mesh reads, with the newest version v1alphaN that it knows.
func smiKinds() []smiKind {
	return []smiKind{
		{group: smi.SplitGroup, kind: "TrafficSplit", plural: "trafficsplits", newest: 4},
		{group: smi.SpecsGroup, kind: "HTTPRouteGroup", plural: "httproutegroups", newest: 4},
		{group: smi.SpecsGroup, kind: "TCPRoute", plural: "tcproutes", newest: 4},
		{group: smi.SpecsGroup, kind: "UDPRoute", plural: "udproutes", newest: 4},
		{group: smi.AccessGroup, kind: "TrafficTarget", plural: "traffictargets", newest: 3},
	}
}

type smiKind struct {
	group, kind, plural string
	newest              int
}

func (k smiKind) definition() string { return k.plural + "." + k.group }

// decoded is an SMI object, or why it is none. It is decoded when it arrives, not in every round.
type decoded struct {
	namespace, name string
	object          any
	problems        []problem.Problem
}

func (d decoded) GetNamespace() string { return d.namespace }
func (d decoded) GetName() string      { return d.name }

func keepSMI(obj any) (decoded, bool) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return decoded{}, false
	}
	d := decoded{namespace: u.GetNamespace(), name: u.GetName()}
	d.object, d.problems = decode(u)
	return d, true
}

// decode is smi.Decode, but for bugs: an object must not end the controller.
func decode(u *unstructured.Unstructured) (object any, problems []problem.Problem) {
	defer func() {
		if v := recover(); v != nil {
			ref := problem.Ref{APIVersion: u.GetAPIVersion(), Kind: u.GetKind(), Namespace: u.GetNamespace(), Name: u.GetName(), UID: string(u.GetUID())}
			object, problems = nil, []problem.Problem{problem.Newf(ref, problem.InternalError, "the object cannot be decoded, and is ignored: panic: %v", v)}
		}
	}()
	return smi.Decode(u.Object)
}

// smiWatch follows one SMI kind: its definition comes and goes and changes the versions that are served; its objects are
// read in the newest version that the mesh knows. While versions change, the objects stay as they were read last.
type smiWatch struct {
	smiKind
	client  dynamic.Interface
	changed func()
	crd     *watcher // of the definition
	defined *list[served]
	objects *list[decoded]

	mu         sync.Mutex
	version    string // that is watched; "" = none
	unreadable error
}

// served is what a definition says.
type served struct {
	name     string
	versions []string
	foreign  bool   // somebody else made it
	convert  string // namespace of the Service that converts; "" = none
	bundle   []byte // whom the API server trusts there
}

func (s served) GetNamespace() string { return "" }
func (s served) GetName() string      { return s.name }

func newSMIWatch(k smiKind, client dynamic.Interface, changed func()) *smiWatch {
	w := &smiWatch{smiKind: k, client: client, changed: changed}
	w.objects = &list[decoded]{keep: keepSMI, changed: changed}
	w.defined = &list[served]{keep: keepDefinition, changed: changed}
	w.crd = newWatcher("definition of "+k.plural, client, client.Resource(definitions), "metadata.name="+k.definition(), &unstructured.Unstructured{}, w.defined)
	w.crd.optional = true
	return w
}

// keepDefinition keeps the versions that are served. A definition that is not established serves none.
func keepDefinition(obj any) (served, bool) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return served{}, false
	}
	out := served{name: u.GetName(), foreign: !ownDefinition(u), convert: smi.ConvertedIn(u.Object)}
	bundle, _, _ := unstructured.NestedString(u.Object, "spec", "conversion", "webhook", "clientConfig", "caBundle")
	out.bundle, _ = base64.StdEncoding.DecodeString(bundle)
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	established := false
	for _, c := range conditions {
		m, _ := c.(map[string]any)
		established = established || m["type"] == "Established" && m["status"] == "True"
	}
	versions, _, _ := unstructured.NestedSlice(u.Object, "spec", "versions")
	for _, v := range versions {
		m, _ := v.(map[string]any)
		name, _ := m["name"].(string)
		if on, _ := m["served"].(bool); on && established {
			out.versions = append(out.versions, name)
		}
	}
	return out, true
}

// newestOf returns the newest of the versions that the mesh knows; "" if it knows none.
func (k smiKind) newestOf(versions []string) string {
	best := 0
	for _, v := range versions {
		n, ok := strings.CutPrefix(v, "v1alpha")
		if i, err := strconv.Atoi(n); ok && err == nil && i <= k.newest {
			best = max(best, i)
		}
	}
	if best == 0 {
		return ""
	}
	return "v1alpha" + strconv.Itoa(best)
}

// run watches the definition, and the objects in the version that it serves.
func (w *smiWatch) run(ctx context.Context) {
	var watches sync.WaitGroup
	defer watches.Wait()
	watches.Go(func() { w.crd.run(ctx) })
	stop := func() {}
	defer func() { stop() }()
	for {
		next := w.defined.next()
		if version := w.serves(); version != w.watched() {
			stop()
			objects, cancel := context.WithCancel(ctx)
			stop = cancel
			w.follow(objects, &watches, version)
		}
		select {
		case <-ctx.Done():
			return
		case <-next:
		}
	}
}

func (w *smiWatch) serves() string {
	d, ok := w.defined.get("", w.definition())
	if !ok {
		return ""
	}
	return w.newestOf(d.versions)
}

func (w *smiWatch) watched() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.version
}

// follow watches the objects in a version, until ctx ends.
func (w *smiWatch) follow(ctx context.Context, watches *sync.WaitGroup, version string) {
	w.mu.Lock()
	w.version, w.unreadable = version, nil
	w.mu.Unlock()
	if version == "" {
		_ = w.objects.Replace(nil, "") // of no objects, all can be kept
		return
	}
	r := schema.GroupVersionResource{Group: w.group, Version: version, Resource: w.plural}
	objects := newWatcher(w.plural+" "+version, w.client, w.client.Resource(r), "", &unstructured.Unstructured{}, whileLive{ctx, w.objects})
	objects.failing = func(err error) {
		w.mu.Lock()
		if ctx.Err() == nil {
			w.unreadable = err
		}
		w.mu.Unlock()
		w.changed()
	}
	watches.Go(func() { objects.run(ctx) })
}

// whileLive lets a watch that was ended write no more: another one has the store by then.
type whileLive struct {
	ctx   context.Context //nolint:containedctx // it is the life of the watch that this store is for
	store *list[decoded]
}

func (s whileLive) Add(obj any) error    { return s.do(func() error { return s.store.Add(obj) }) }
func (s whileLive) Update(obj any) error { return s.do(func() error { return s.store.Update(obj) }) }

func (s whileLive) Delete(obj any) error { return s.do(func() error { return s.store.Delete(obj) }) }
func (s whileLive) Resync() error        { return nil }
func (s whileLive) Replace(objs []any, version string) error {
	return s.do(func() error { return s.store.Replace(objs, version) })
}

func (s whileLive) do(f func() error) error {
	if s.ctx.Err() != nil {
		return s.ctx.Err()
	}
	return f()
}

// synced says whether everything that the cluster serves of the kind has been read.
func (w *smiWatch) synced() bool {
	if absent, _ := w.crd.state(); absent {
		return true
	}
	return w.defined.isSynced() && w.serves() == w.watched() && (w.watched() == "" || w.objects.isSynced())
}

// unread returns the Problem of a kind that is served and cannot be read.
func (w *smiWatch) unread() []problem.Problem {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.unreadable == nil {
		return nil
	}
	ref := problem.Ref{APIVersion: definitions.GroupVersion().String(), Kind: "CustomResourceDefinition", Name: w.definition()}
	return []problem.Problem{problem.Newf(ref, problem.KindUnreadable, "%s objects cannot be read: %v", w.kind, w.unreadable)}
}

// Foreign says whether the definition of an SMI kind is somebody else's.
func (s *Source) Foreign(group, resource string) bool {
	for _, w := range s.smi {
		if w.group == group && w.plural == resource {
			d, known := w.defined.get("", w.definition())
			return known && d.foreign
		}
	}
	return false
}

// Trusts says whether the API server trusts a CA (in PEM) for all conversions by this mesh.
func (s *Source) Trusts(ca []byte) bool {
	own := pemBlock(ca)
	for _, w := range s.smi {
		if d, _ := w.defined.get("", w.definition()); d.convert == s.config.Namespace && !slices.ContainsFunc(pemBlocks(d.bundle), func(b []byte) bool { return bytes.Equal(b, own) }) {
			return false
		}
	}
	return true
}
