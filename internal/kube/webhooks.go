package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/tulle-mesh/tulle/internal/smi"
)

const (
	// WebhookService is the Service at which the API server asks the controllers, in the mesh's namespace.
	WebhookService = "tulle-webhook"
	webhookPort    = 443
	convertPath    = "/convert"
	// definitionsManager owns the fields of definitions. It is the installer's name: what it no longer applies is to go,
	// whoever of the two wrote it.
	definitionsManager = "tulle"
)

// validations is where the API server is told whom to ask before it writes an object.
var validations = schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingwebhookconfigurations"}

// ValidationName is the name of the mesh's ValidatingWebhookConfiguration.
func ValidationName(namespace string) string { return "tulle-webhook." + namespace }

// Webhooks tells the API server how to reach the controllers' webhooks, and whom to trust there; with that, it serves all
// versions of the SMI kinds. The leader runs it. All but Every and Overlap is required.
type Webhooks struct {
	Client    kubernetes.Interface
	Dynamic   dynamic.Interface
	Namespace string        // the mesh's
	CA        func() []byte // certificate of the CA, in PEM; empty = there is none yet
	Log       *slog.Logger
	// Off has it tell the API server that there are no webhooks any more.
	Off bool
	// Every is how often it looks whether somebody changed what it wrote. Default 10 s.
	Every time.Duration
	// Overlap is how long a CA that was replaced is trusted besides: until all replicas have a certificate of the new one.
	// Default 10 min.
	Overlap time.Duration

	old map[string]time.Time // certificates of former CAs, and when they were first seen; owned by Run
}

// Run keeps the API server told until ctx ends.
func (w *Webhooks) Run(ctx context.Context) error {
	every := cmp.Or(w.Every, 10*time.Second)
	for {
		next := every
		if err := w.sync(ctx, time.Now()); err != nil && ctx.Err() == nil {
			w.Log.Warn("API server not told of the webhooks", "err", err)
			next = every / 5
		}
		if !sleep(ctx, next) {
			return nil
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (w *Webhooks) sync(ctx context.Context, now time.Time) error {
	var errs []error
	var ca []byte
	if !w.Off {
		if ca = w.CA(); len(ca) == 0 {
			return errors.New("there is no CA yet")
		}
		errs = append(errs, w.syncValidation(ctx, ca, now))
	}
	for _, k := range smiKinds() {
		errs = append(errs, w.syncDefinition(ctx, k.definition(), ca, now))
	}
	return errors.Join(errs...)
}

// syncValidation writes whom to trust into the configuration, which the chart makes.
func (w *Webhooks) syncValidation(ctx context.Context, ca []byte, now time.Time) error {
	client := w.Dynamic.Resource(validations)
	live, err := client.Get(ctx, ValidationName(w.Namespace), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get ValidatingWebhookConfiguration: %w", err)
	}
	live = live.DeepCopy()
	hooks, _, _ := unstructured.NestedFieldNoCopy(live.Object, "webhooks")
	list, _ := hooks.([]any)
	changed := false
	for _, h := range list {
		hook, _ := h.(map[string]any)
		client, _ := hook["clientConfig"].(map[string]any)
		has, _ := client["caBundle"].(string)
		if want := w.bundle(ca, has, now); client != nil && want != has {
			client["caBundle"], changed = want, true
		}
	}
	if !changed {
		return nil
	}
	_, err = client.Update(ctx, live, metav1.UpdateOptions{FieldManager: eventSource})
	if err != nil {
		return fmt.Errorf("update ValidatingWebhookConfiguration %s: %w", live.GetName(), err)
	}
	w.Log.Info("validation set up", "name", live.GetName())
	return nil
}

// syncDefinition has the API server convert the objects of a definition, and serve all their versions. Somebody else's
// definitions are left alone, and so are those that another mesh converts.
func (w *Webhooks) syncDefinition(ctx context.Context, name string, ca []byte, now time.Time) error {
	client := w.Dynamic.Resource(definitions)
	live, err := client.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get CustomResourceDefinition %s: %w", name, err)
	}
	if !ownDefinition(live) || live.GetAnnotations()[smi.ConversionAnnotation] != smi.ConversionByWebhook {
		return nil
	}
	next, err := w.definition(ctx, live, ca, now)
	if next == nil || err != nil {
		return err
	}
	// It says which version it was made from: the installer may have changed it since.
	if _, err := client.Apply(ctx, name, &unstructured.Unstructured{Object: next}, metav1.ApplyOptions{FieldManager: definitionsManager, Force: true}); err != nil {
		return fmt.Errorf("apply CustomResourceDefinition %s: %w", name, err)
	}
	w.Log.Info("conversion set up", "name", name)
	return nil
}

// definition is what a definition is to become, nil if it is that.
func (w *Webhooks) definition(ctx context.Context, live *unstructured.Unstructured, ca []byte, now time.Time) (map[string]any, error) {
	if w.Off {
		if smi.ConvertedIn(live.Object) == w.Namespace {
			return smi.WithoutConversion(live.Object, smi.ConversionByWebhook), nil
		}
		return nil, nil
	}
	if other, err := w.othersConvert(ctx, live); other || err != nil {
		return nil, err
	}
	has, _, _ := unstructured.NestedString(live.Object, "spec", "conversion", "webhook", "clientConfig", "caBundle")
	return smi.WithConversion(live.Object, w.conversion(w.bundle(ca, has, now))), nil
}

func (w *Webhooks) conversion(bundle string) map[string]any {
	return map[string]any{
		"strategy": "Webhook",
		"webhook": map[string]any{
			"clientConfig": map[string]any{
				"caBundle": bundle,
				"service":  map[string]any{"namespace": w.Namespace, "name": WebhookService, "path": convertPath, "port": int64(webhookPort)},
			},
			"conversionReviewVersions": []any{"v1"},
		},
	}
}

func ownDefinition(crd *unstructured.Unstructured) bool {
	return crd.GetLabels()["app.kubernetes.io/name"] == "tulle"
}

// othersConvert says whether another mesh that exists converts the objects.
func (w *Webhooks) othersConvert(ctx context.Context, crd *unstructured.Unstructured) (bool, error) {
	namespace := smi.ConvertedIn(crd.Object)
	if namespace == "" || namespace == w.Namespace {
		return false, nil
	}
	_, err := w.Client.CoreV1().Services(namespace).Get(ctx, WebhookService, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("get Service %s/%s: %w", namespace, WebhookService, err)
	}
	return true, nil
}
