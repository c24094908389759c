package install

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/internal/fakeapi"
	"github.com/tulle-mesh/tulle/internal/status"
)

// A mesh that works at once: what a cluster's controllers and ours would do when objects are applied.
func working(s *fakeapi.Server) func(resource string, o fakeapi.Object) {
	return func(resource string, o fakeapi.Object) {
		switch resource {
		case "customresourcedefinitions":
			setStatus(s, o, `{"conditions": [{"type": "Established", "status": "True"}]}`)
		case "deployments":
			setStatus(s, o, `{"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}`)
			s.Put(fakeapi.Parse(`{apiVersion: v1, kind: ConfigMap, metadata: {name: tulle-ca, namespace: tulle-system}}`)[0])
			for pod, component := range map[string]string{"c-1": "controller", "d-1": "dns", "i-1": "identity"} {
				if o["metadata"].(map[string]any)["name"] == "tulle-"+component {
					s.Put(fakeapi.Parse(fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s, namespace: tulle-system, labels: {app.kubernetes.io/name: tulle, app.kubernetes.io/component: %s}}}`, pod, component))[0])
				}
			}
		case "daemonsets":
			convertAll(s)
			setStatus(s, o, `{"desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberAvailable": 2}`)
			putStatus(s, status.Leader{Pod: "c-1", DNS: &status.DNS{Mode: "manage", State: "ok", Object: "kube-system/coredns", Writer: "d-1"}})
		}
	}
}

// convertAll does what the leading controller does about the SMI kinds.
func convertAll(s *fakeapi.Server) {
	for _, name := range s.Names() {
		crd := s.Get("customresourcedefinitions", "", strings.TrimPrefix(name, "customresourcedefinitions "))
		if crd == nil {
			continue
		}
		annotations, _ := crd["metadata"].(map[string]any)["annotations"].(map[string]any)
		if annotations["tulle.dev/conversion"] != "webhook" {
			continue
		}
		spec := maps.Clone(crd["spec"].(map[string]any))
		spec["conversion"] = map[string]any{"strategy": "Webhook", "webhook": map[string]any{
			"clientConfig":             map[string]any{"caBundle": "Y2E=", "service": map[string]any{"namespace": "tulle-system", "name": "tulle-webhook", "path": "/convert", "port": 443.0}},
			"conversionReviewVersions": []any{"v1"},
		}}
		var versions []any
		for _, v := range spec["versions"].([]any) {
			version := maps.Clone(v.(map[string]any))
			version["served"] = true
			versions = append(versions, version)
		}
		spec["versions"] = versions
		next := maps.Clone(crd)
		next["spec"] = spec
		s.Put(next)
	}
}

func setStatus(s *fakeapi.Server, o fakeapi.Object, text string) {
	var st map[string]any
	if err := json.Unmarshal([]byte(text), &st); err != nil {
		panic(err)
	}
	next := maps.Clone(o)
	next["status"] = st
	s.Put(next)
}

func putStatus(s *fakeapi.Server, l status.Leader) {
	data, _, err := status.EncodeLeader(l)
	if err != nil {
		panic(err)
	}
	s.Put(fakeapi.Object{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": status.ConfigMap, "namespace": "tulle-system"},
		"data": map[string]any{status.LeaderKey: string(data)},
	})
}

func newInstaller(t *testing.T) (*Installer, *fakeapi.Server, *bytes.Buffer) {
	t.Helper()
	s := fakeapi.New(t)
	s.OnWrite = working(s)
	for _, o := range fakeapi.Parse(fakeapi.CoreDNS) {
		s.Put(o)
	}
	c, err := ConnectTo(&rest.Config{Host: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	return &Installer{Cluster: c, Namespace: "tulle-system", Out: &out, Timeout: 5 * time.Second, Poll: time.Millisecond}, s, &out
}

func TestInstallTwiceChangesNothing(t *testing.T) {
	i, s, out := newInstaller(t)
	o := Options{Values: Values{"proxy": map[string]any{"accessLog": true}}}
	if err := i.Install(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"namespace tulle-system created", "controllers available", "identities are certified", "proxies ready", "all versions of SMI objects are served", "mesh names resolve (kube-system/coredns)"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no line %q in:\n%s", want, out)
		}
	}
	level := s.Get("namespaces", "", "tulle-system")["metadata"].(map[string]any)["labels"].(map[string]any)["pod-security.kubernetes.io/enforce"]
	if level != "restricted" {
		t.Errorf("the namespace enforces PodSecurity %v", level)
	}
	before := s.Names()
	s.Writes()
	if err := i.Install(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if w := s.Writes(); len(w) != 0 {
		t.Errorf("the second install wrote %v", w)
	}
	if diff := cmp.Diff(before, s.Names()); diff != "" {
		t.Error(diff)
	}
}

// The proxies' pods mount what the controllers and tulle-identity make, so these come first.
func TestProxiesComeAfterTheCA(t *testing.T) {
	i, s, _ := newInstaller(t)
	works := s.OnWrite
	s.OnWrite = func(resource string, o fakeapi.Object) {
		if resource == "daemonsets" {
			if s.Get("configmaps", "tulle-system", "tulle-ca") == nil {
				t.Error("the DaemonSet was applied before tulle-ca was there")
			}
			if status, _ := s.Get("deployments", "tulle-system", "tulle-identity")["status"].(map[string]any); fmt.Sprint(status["availableReplicas"]) != "2" {
				t.Errorf("the DaemonSet was applied before tulle-identity was available: %v", status)
			}
		}
		works(resource, o)
	}
	if err := i.Install(t.Context(), Options{}); err != nil {
		t.Fatal(err)
	}
}

// No proxy is replaced by one of a version that asks tulle-identity before that is there; what is wrong with it is said.
func TestProxiesWaitForTheSigner(t *testing.T) {
	i, s, _ := newInstaller(t)
	i.Timeout = 100 * time.Millisecond
	works := s.OnWrite
	s.OnWrite = func(resource string, o fakeapi.Object) {
		switch {
		case resource == "daemonsets":
			t.Error("the DaemonSet was applied")
		case resource == "deployments" && o["metadata"].(map[string]any)["name"] == "tulle-identity":
			s.Put(fakeapi.Parse(`{apiVersion: v1, kind: Pod, metadata: {name: i-1, namespace: tulle-system, labels: {app.kubernetes.io/name: tulle, app.kubernetes.io/component: identity}}, status: {conditions: [{type: PodScheduled, status: "False", message: Insufficient cpu}]}}`)[0])
		default:
			works(resource, o)
		}
	}
	err := i.Install(t.Context(), Options{})
	if err == nil {
		t.Fatal("installed")
	}
	for _, want := range []string{"tulle-identity not ready after", "0 of 2 are available", "pod i-1 can't be scheduled", "next: "} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func TestUpgradePrunesAndKeepsValues(t *testing.T) {
	i, s, out := newInstaller(t)
	if err := i.Install(t.Context(), Options{Values: Values{"criticalPodsQuota": true, "log": map[string]any{"level": "debug"}}}); err != nil {
		t.Fatal(err)
	}
	if s.Get("resourcequotas", "tulle-system", "tulle-critical-pods") == nil {
		t.Fatal("no quota")
	}
	if err := i.Upgrade(t.Context(), UpgradeOptions{Options: Options{Values: Values{"criticalPodsQuota": false}}}); err != nil {
		t.Fatal(err)
	}
	if s.Get("resourcequotas", "tulle-system", "tulle-critical-pods") != nil {
		t.Error("the quota is still there")
	}
	if !strings.Contains(out.String(), "ResourceQuota tulle-system/tulle-critical-pods deleted") {
		t.Errorf("nothing is said about the quota:\n%s", out)
	}
	r, err := ReadRecord(t.Context(), i.Cluster, "tulle-system")
	if err != nil {
		t.Fatal(err)
	}
	want := Values{"criticalPodsQuota": false, "log": map[string]any{"level": "debug"}}
	if diff := cmp.Diff(want, r.Values); diff != "" {
		t.Errorf("values (-want +got):\n%s", diff)
	}
}

// An upgrade that fails half-way leaves a record of all objects, old and new: the next one prunes.
func TestInterruptedUpgradeIsFinishedByTheNext(t *testing.T) {
	i, s, _ := newInstaller(t)
	if err := i.Install(t.Context(), Options{Values: Values{"criticalPodsQuota": true}}); err != nil {
		t.Fatal(err)
	}
	s.Refuse = func(verb, resource, _, _ string) *apierrors.StatusError {
		if verb == "apply" && resource == "daemonsets" {
			return apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "tulle-proxy", fmt.Errorf("no"))
		}
		return nil
	}
	err := i.Install(t.Context(), Options{})
	if err == nil || !strings.Contains(err.Error(), "apply DaemonSet tulle-system/tulle-proxy") || !strings.Contains(err.Error(), "next: ") {
		t.Fatalf("error %v", err)
	}
	s.Refuse = nil
	if err := i.Install(t.Context(), Options{}); err != nil {
		t.Fatal(err)
	}
	if s.Get("resourcequotas", "tulle-system", "tulle-critical-pods") != nil {
		t.Error("the quota is still there")
	}
}

func TestForeignCRDsAreLeftAlone(t *testing.T) {
	i, s, out := newInstaller(t)
	foreign := fakeapi.Parse(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: trafficsplits.split.smi-spec.io, labels: {app: somebody}}
spec: {versions: [{name: v1alpha2, served: true}, {name: v1alpha1, served: false}]}
`)[0]
	s.Put(foreign)
	if err := i.Install(t.Context(), Options{}); err != nil {
		t.Fatal(err)
	}
	got := s.Get("customresourcedefinitions", "", "trafficsplits.split.smi-spec.io")
	if diff := cmp.Diff(foreign["spec"], got["spec"]); diff != "" {
		t.Errorf("changed:\n%s", diff)
	}
	if !strings.Contains(out.String(), "not tulle's: left as it is, served versions: v1alpha2") {
		t.Errorf("nothing is said:\n%s", out)
	}
	if s.Get("customresourcedefinitions", "", "udproutes.specs.smi-spec.io") == nil {
		t.Error("the others were not installed")
	}
}

func TestInstallRefuses(t *testing.T) {
	tests := map[string]struct {
		objects string
		version string
		values  string
		want    []string
	}{
		"what Helm keeps track of": {
			objects: `{apiVersion: v1, kind: Secret, metadata: {name: sh.helm.release.v1.tulle.v1, namespace: tulle-system, labels: {owner: helm, name: tulle}}}`,
			want:    []string{"installed by Helm", "helm upgrade"},
		},
		"a namespace that goes": {
			objects: `{apiVersion: v1, kind: Namespace, metadata: {name: tulle-system}, status: {phase: Terminating}}`,
			want:    []string{"is being deleted", "wait until it is gone"},
		},
		"kinds that the cluster lacks": {values: "podMonitor: {enabled: true}", want: []string{"PodMonitor", "leave it out by its value"}},
		"an old cluster":               {version: "v1.27.3", want: []string{"too old", "upgrade the cluster"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			i, s, _ := newInstaller(t)
			if tt.version != "" {
				s.Version = tt.version
			}
			for _, o := range fakeapi.Parse(tt.objects) {
				s.Put(o)
			}
			err := i.Install(t.Context(), Options{Values: parse(t, tt.values)})
			if err == nil {
				t.Fatal("installed")
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q is not in: %v", w, err)
				}
			}
			if w := s.Writes(); len(w) > 0 {
				t.Errorf("it wrote %v", w)
			}
		})
	}
}

// What never becomes ready is explained by what the cluster says about its pods.
func TestTimeoutSaysWhyAndWhatNext(t *testing.T) {
	tests := map[string]struct {
		objects string
		want    []string
	}{
		"image": {
			`{apiVersion: v1, kind: Pod, metadata: {name: c-1, namespace: tulle-system, labels: {app.kubernetes.io/name: tulle, app.kubernetes.io/component: controller}}, status: {containerStatuses: [{image: "x/y:1", state: {waiting: {reason: ImagePullBackOff, message: not found}}}]}}`,
			[]string{"0 of 2 are available", "pod c-1: ImagePullBackOff: not found", "make the image x/y:1 available"},
		},
		"room": {
			`{apiVersion: v1, kind: Pod, metadata: {name: c-1, namespace: tulle-system, labels: {app.kubernetes.io/name: tulle, app.kubernetes.io/component: controller}}, status: {conditions: [{type: PodScheduled, status: "False", message: Insufficient cpu}]}}`,
			[]string{"Insufficient cpu", "make room"},
		},
		"quota": {
			`{apiVersion: v1, kind: Event, metadata: {name: e, namespace: tulle-system}, type: Warning, reason: FailedCreate, message: "insufficient quota to match these scopes", involvedObject: {kind: ReplicaSet, name: tulle-controller-abc}}`,
			[]string{"insufficient quota", "criticalPodsQuota=true"},
		},
		"nothing known": {"", []string{"not ready after", "describe pods"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			i, s, _ := newInstaller(t)
			i.Timeout = 100 * time.Millisecond
			works := s.OnWrite
			s.OnWrite = func(resource string, o fakeapi.Object) {
				if resource != "deployments" || o["metadata"].(map[string]any)["name"] != "tulle-controller" {
					works(resource, o)
				}
			}
			s.Put(fakeapi.Parse(`{apiVersion: v1, kind: ConfigMap, metadata: {name: tulle-ca, namespace: tulle-system}}`)[0])
			for _, o := range fakeapi.Parse(tt.objects) {
				s.Put(o)
			}
			err := i.Install(t.Context(), Options{})
			if err == nil {
				t.Fatal("installed")
			}
			for _, w := range append(tt.want, "next: ") {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q is not in: %v", w, err)
				}
			}
			if strings.Contains(err.Error(), "context deadline") {
				t.Errorf("a bare deadline: %v", err)
			}
		})
	}
}

func TestDNSThatCannotWorkEndsTheWaitAtOnce(t *testing.T) {
	for state, next := range map[string]string{"fighting": "add-on manager", "unsupported": "docs/dns.md", "refused": "another zone"} {
		t.Run(state, func(t *testing.T) {
			i, s, _ := newInstaller(t)
			works := s.OnWrite
			s.OnWrite = func(resource string, o fakeapi.Object) {
				works(resource, o)
				if resource == "daemonsets" {
					putStatus(s, status.Leader{Pod: "c-1", DNS: &status.DNS{Mode: "manage", State: state, Message: "because", Writer: "d-1"}})
				}
			}
			err := i.Install(t.Context(), Options{})
			if err == nil || !strings.Contains(err.Error(), "because") || !strings.Contains(err.Error(), next) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// What a leader of the past wrote says nothing about the mesh of now.
func TestStatusOfADeadLeaderDoesNotCount(t *testing.T) {
	i, s, out := newInstaller(t)
	putStatus(s, status.Leader{Pod: "gone", DNS: &status.DNS{State: "ok", Object: "old"}})
	if err := i.Install(t.Context(), Options{}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "old") {
		t.Errorf("believed the old leader:\n%s", out)
	}
}
