package install

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tulle-mesh/tulle/internal/fakeapi"
	"github.com/tulle-mesh/tulle/internal/smi"
)

const splitsCRD = "trafficsplits.split.smi-spec.io"

// state is what a definition says about conversion, and which versions it serves.
func state(s *fakeapi.Server, name string) string {
	crd := s.Get("customresourcedefinitions", "", name)
	spec, _ := crd["spec"].(map[string]any)
	conversion, _ := spec["conversion"].(map[string]any)
	annotations, _ := crd["metadata"].(map[string]any)["annotations"].(map[string]any)
	out := fmt.Sprint(conversion["strategy"], " ", annotations[smi.ConversionAnnotation])
	for _, v := range spec["versions"].([]any) {
		if m := v.(map[string]any); m["served"] == true {
			out += fmt.Sprint(" ", m["name"])
		}
	}
	return out
}

const (
	converting = "Webhook webhook v1alpha4 v1alpha3 v1alpha2 v1alpha1"
	released   = "None none v1alpha4 v1alpha3"
	invited    = "None webhook v1alpha4 v1alpha3"
)

// An upgrade leaves the conversion as the controllers set it up: there is no moment without it.
func TestUpgradeKeepsTheConversion(t *testing.T) {
	i, s, _ := newInstaller(t)
	if err := i.Install(t.Context(), Options{}); err != nil {
		t.Fatal(err)
	}
	if got := state(s, splitsCRD); got != converting {
		t.Fatalf("installed: %s", got)
	}
	works := s.OnWrite
	s.OnWrite = func(resource string, o fakeapi.Object) {
		if resource == "customresourcedefinitions" && strings.HasPrefix(state(s, splitsCRD), "None") {
			t.Error("the conversion was taken away")
		}
		works(resource, o)
	}
	if err := i.Upgrade(t.Context(), UpgradeOptions{Options: Options{Values: parse(t, "log: {level: debug}")}}); err != nil {
		t.Fatal(err)
	}
	if got := state(s, splitsCRD); got != converting {
		t.Errorf("upgraded: %s", got)
	}
	s.OnWrite = works
	if err := i.Upgrade(t.Context(), UpgradeOptions{Options: Options{Values: parse(t, "webhook: {enabled: false}")}}); err != nil {
		t.Fatal(err)
	}
	if got := state(s, splitsCRD); got != invited {
		t.Errorf("without webhooks: %s", got)
	}
	if s.Get("validatingwebhookconfigurations", "", "tulle-webhook.tulle-system") != nil {
		t.Error("the API server still asks")
	}
}

// Objects are made independent of the controllers while these can still convert them, and stay so when they end.
func TestUninstallReleasesObjectsFirst(t *testing.T) {
	i, s, out := installed(t, others)
	endProxies(i, s)
	crd := maps.Clone(s.Get("customresourcedefinitions", "", splitsCRD))
	crd["status"] = map[string]any{"storedVersions": []any{"v1alpha2", "v1alpha4"}}
	s.Put(crd)
	s.Put(fakeapi.Parse(`{apiVersion: split.smi-spec.io/v1alpha4, kind: TrafficSplit, metadata: {name: web, namespace: shop}, spec: {service: web}}`)[0])
	s.Put(fakeapi.Parse(`{apiVersion: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, metadata: {name: old, namespace: shop, managedFields: [{apiVersion: specs.smi-spec.io/v1alpha1, manager: a}, {apiVersion: specs.smi-spec.io/v1alpha4, manager: b}]}}`)[0])
	s.Put(fakeapi.Parse(`{apiVersion: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, metadata: {name: now, namespace: shop, managedFields: [{apiVersion: specs.smi-spec.io/v1alpha4, manager: b}]}}`)[0])
	works, noted := s.OnWrite, false
	s.OnWrite = func(resource string, o fakeapi.Object) {
		status, _ := o["status"].(map[string]any)
		noted = noted || fmt.Sprint(status["storedVersions"]) == "[v1alpha4]"
		if resource == "deployments" && state(s, splitsCRD) != released {
			t.Errorf("the controllers end, and the API server would still ask them: %s", state(s, splitsCRD))
		}
		works(resource, o)
	}
	s.Writes()
	if err := i.Uninstall(t.Context(), UninstallOptions{Force: true, RestoreDNS: func(context.Context) error { return nil }}); err != nil {
		t.Fatal(err)
	}
	if got := state(s, splitsCRD); got != invited {
		t.Errorf("in the end: %s", got)
	}
	if !strings.Contains(out.String(), "1 trafficsplits stored as v1alpha4") || !strings.Contains(out.String(), "1 httproutegroups stored as v1alpha4") {
		t.Errorf("not stored again: %s", out)
	}
	metadata, _ := s.Get("httproutegroups", "shop", "old")["metadata"].(map[string]any)
	if owners, _ := metadata["managedFields"].([]any); len(owners) != 1 || owners[0].(map[string]any)["manager"] != "b" {
		t.Errorf("fields are owned by %v", owners)
	}
	if !noted {
		t.Error("it is not noted that no other version is stored any more")
	}
}

// What is left when somebody took away everything but the definitions is put right, too.
func TestUninstallAfterHelm(t *testing.T) {
	i, s, _ := newInstaller(t)
	if err := i.Install(t.Context(), Options{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range s.Names() {
		resource, object, _ := strings.Cut(name, " ")
		namespace, name, namespaced := strings.Cut(object, "/")
		if !namespaced {
			namespace, name = "", object
		}
		if resource != "customresourcedefinitions" && namespace != "kube-system" && name != "n1" {
			s.Remove(resource, namespace, name)
		}
	}
	if err := i.Uninstall(t.Context(), UninstallOptions{RestoreDNS: func(context.Context) error { return nil }}); err != nil {
		t.Fatal(err)
	}
	if got := state(s, splitsCRD); got != invited {
		t.Errorf("in the end: %s", got)
	}
}

// If objects cannot be made independent, nothing is removed.
func TestUninstallStopsIfObjectsCannotBeReleased(t *testing.T) {
	i, s, _ := installed(t, others)
	s.Refuse = func(verb, resource, _, name string) *apierrors.StatusError {
		if verb == "apply" && resource == "customresourcedefinitions" {
			return apierrors.NewForbidden(schema.GroupResource{Resource: resource}, name, nil)
		}
		return nil
	}
	err := i.Uninstall(t.Context(), UninstallOptions{Force: true, RestoreDNS: func(context.Context) error { return nil }})
	if err == nil || s.Get("pods", "tulle-system", "c-1") == nil {
		t.Errorf("%v, and the controllers are gone", err)
	}
}
