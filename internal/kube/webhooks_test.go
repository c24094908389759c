package kube

import (
	"encoding/base64"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/internal/fakeapi"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/smi"
)

const definedByUs = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: trafficsplits.split.smi-spec.io, labels: {app.kubernetes.io/name: tulle}, annotations: {tulle.dev/conversion: webhook}}
spec:
  group: split.smi-spec.io
  conversion: {strategy: None}
  versions: [{name: v1alpha4, served: true, storage: true, schema: {a: b}}, {name: v1alpha3, served: true, storage: false, schema: {a: b}}, {name: v1alpha1, served: false, storage: false, schema: {c: d}}]
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: udproutes.specs.smi-spec.io, labels: {app.kubernetes.io/name: tulle}}
spec: {group: specs.smi-spec.io, conversion: {strategy: None}, versions: [{name: v1alpha4, served: true, storage: true}]}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: traffictargets.access.smi-spec.io, annotations: {tulle.dev/conversion: webhook}}
spec: {group: access.smi-spec.io, conversion: {strategy: None}, versions: [{name: v1alpha3, served: true, storage: true}, {name: v1alpha1, served: false, storage: false}]}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: tulle-webhook.tulle-system}
webhooks: [{name: validate.tulle.dev, clientConfig: {service: {name: tulle-webhook}}}]
`

func newCA(t *testing.T) []byte {
	t.Helper()
	ca, err := identity.NewCA("tulle", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca.CertPEM()
}

type toldAPI struct {
	*testing.T
	*fakeapi.Server
	w  *Webhooks
	ca []byte
}

func newToldAPI(t *testing.T) *toldAPI {
	t.Helper()
	api := &toldAPI{T: t, Server: fakeapi.New(t), ca: newCA(t)}
	for _, o := range fakeapi.Parse(definedByUs) {
		api.Put(o)
	}
	config := &rest.Config{Host: api.URL}
	d, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	api.w = &Webhooks{Client: c, Dynamic: d, Namespace: "tulle-system", CA: func() []byte { return api.ca }, Log: slog.New(slog.DiscardHandler), Overlap: time.Minute}
	return api
}

func (a *toldAPI) sync(at time.Duration) {
	a.Helper()
	if err := a.w.sync(a.Context(), time.Unix(1_000_000, 0).Add(at)); err != nil {
		a.Fatal(err)
	}
}

func (a *toldAPI) definition(name string) (strategy, namespace string, bundle []byte, served string) {
	a.Helper()
	o := a.Get("customresourcedefinitions", "", name)
	strategy, _, _ = unstructured.NestedString(o, "spec", "conversion", "strategy")
	b64, _, _ := unstructured.NestedString(o, "spec", "conversion", "webhook", "clientConfig", "caBundle")
	bundle, err := base64.StdEncoding.DecodeString(b64)
	if err != nil {
		a.Fatal(err)
	}
	versions, _, _ := unstructured.NestedSlice(o, "spec", "versions")
	for _, v := range versions {
		if m := v.(map[string]any); m["served"] == true {
			served += fmt.Sprint(m["name"], " ")
		}
	}
	return strategy, smi.ConvertedIn(o), bundle, strings.TrimSpace(served)
}

const splitsDefinition = "trafficsplits.split.smi-spec.io"

func TestWebhooksAreToldOnceAndPutBack(t *testing.T) {
	a := newToldAPI(t)
	a.sync(0)
	if strategy, namespace, bundle, served := a.definition(splitsDefinition); strategy != "Webhook" || namespace != "tulle-system" || string(bundle) != string(a.ca) || served != "v1alpha4 v1alpha3 v1alpha1" {
		t.Errorf("splits: %s %s %s %s", strategy, namespace, bundle, served)
	}
	// One that needs no conversion, and one of somebody else.
	for _, name := range []string{"udproutes.specs.smi-spec.io", "traffictargets.access.smi-spec.io"} {
		if strategy, _, _, _ := a.definition(name); strategy != "None" {
			t.Errorf("%s: %s", name, strategy)
		}
	}
	a.Writes()
	a.sync(time.Second)
	hooks, _, _ := unstructured.NestedSlice(a.Get("validatingwebhookconfigurations", "", "tulle-webhook.tulle-system"), "webhooks")
	if bundle, _, _ := unstructured.NestedString(hooks[0].(map[string]any), "clientConfig", "caBundle"); bundle != base64.StdEncoding.EncodeToString(a.ca) {
		t.Errorf("validation trusts %s", bundle)
	}
	if w := a.Writes(); len(w) != 0 {
		t.Errorf("the second time it wrote %v", w)
	}
	a.Put(fakeapi.Parse(definedByUs)[0])
	a.sync(2 * time.Second)
	if strategy, _, _, _ := a.definition(splitsDefinition); strategy != "Webhook" {
		t.Errorf("not put back: %s", strategy)
	}
}

// TestWebhooksTurnOver: after a change of the CA both are trusted, and after a while the new one alone. Another leader
// begins to count again.
func TestWebhooksTurnOver(t *testing.T) {
	a := newToldAPI(t)
	a.sync(0)
	old := a.ca
	a.ca = newCA(t)
	expect := func(what, want string) {
		t.Helper()
		if _, _, bundle, _ := a.definition(splitsDefinition); string(bundle) != want {
			t.Errorf("%s: %d certificates", what, len(pemBlocks(bundle)))
		}
	}
	a.sync(time.Second)
	expect("at once", string(a.ca)+string(old))
	a.sync(50 * time.Second)
	expect("later", string(a.ca)+string(old))
	a.w.old = nil
	a.sync(70 * time.Second)
	expect("another leader", string(a.ca)+string(old))
	a.sync(2*time.Minute + 11*time.Second)
	expect("after the overlap", string(a.ca))
}

func TestWebhooksOfAnotherMesh(t *testing.T) {
	a := newToldAPI(t)
	a.w.Namespace = "other"
	a.sync(0)
	a.w.Namespace = "tulle-system"
	a.Put(fakeapi.Parse(`{apiVersion: v1, kind: Service, metadata: {name: tulle-webhook, namespace: other}}`)[0])
	a.sync(time.Second)
	if _, namespace, _, _ := a.definition(splitsDefinition); namespace != "other" {
		t.Errorf("taken away from a mesh that exists: %s", namespace)
	}
	a.Remove("services", "other", "tulle-webhook")
	a.sync(2 * time.Second)
	if _, namespace, _, _ := a.definition(splitsDefinition); namespace != "tulle-system" {
		t.Errorf("left with a mesh that is gone: %s", namespace)
	}
}

func TestWebhooksOff(t *testing.T) {
	a := newToldAPI(t)
	a.sync(0)
	a.w.Off = true
	a.sync(time.Second)
	if strategy, _, _, served := a.definition(splitsDefinition); strategy != "None" || served != "v1alpha4 v1alpha3" {
		t.Errorf("splits: %s %s", strategy, served)
	}
}

// TestWebhooksWait: nothing is converted before there is a CA, and a definition that is being taken away stays so.
func TestWebhooksWait(t *testing.T) {
	a := newToldAPI(t)
	ca := a.ca
	a.ca = nil
	if err := a.w.sync(t.Context(), time.Unix(1, 0)); err == nil {
		t.Error("told without a CA")
	}
	a.ca = ca
	a.Put(fakeapi.Parse(strings.ReplaceAll(definedByUs, "tulle.dev/conversion: webhook", "tulle.dev/conversion: none"))[0])
	a.sync(0)
	if strategy, _, _, _ := a.definition(splitsDefinition); strategy != "None" {
		t.Errorf("splits: %s", strategy)
	}
}

func TestSourceKnowsWhoDefinesAndWhomTheAPIServerTrusts(t *testing.T) {
	c := newCluster(t)
	ca, other := newCA(t), newCA(t)
	ours := c.define("trafficsplits", "split.smi-spec.io", "v1alpha4")
	ours.SetLabels(map[string]string{"app.kubernetes.io/name": "tulle"})
	conversion := map[string]any{"strategy": "Webhook", "webhook": map[string]any{"clientConfig": map[string]any{
		"caBundle": base64.StdEncoding.EncodeToString(ca), "service": map[string]any{"namespace": "tulle-system"},
	}}}
	if err := unstructured.SetNestedMap(ours.Object, conversion, "spec", "conversion"); err != nil {
		t.Fatal(err)
	}
	theirs := c.define("traffictargets", "access.smi-spec.io", "v1alpha3")
	for _, o := range []*unstructured.Unstructured{ours, theirs} {
		if err := c.dynamic.Tracker().Add(o); err != nil {
			t.Fatal(err)
		}
	}
	c.start()
	if c.source.Foreign("split.smi-spec.io", "trafficsplits") || !c.source.Foreign("access.smi-spec.io", "traffictargets") || c.source.Foreign("specs.smi-spec.io", "tcproutes") {
		t.Error("who defines is mistaken")
	}
	if !c.source.Trusts(ca) || c.source.Trusts(other) {
		t.Errorf("trusts %v and %v", c.source.Trusts(ca), c.source.Trusts(other))
	}
}
