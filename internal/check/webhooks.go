package check

import (
	"context"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tulle-mesh/tulle/internal/install"
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/smi"
)

// webhooks has the API server ask the controllers, by objects that it does not store.
func (m *mesh) webhooks(ctx context.Context) ([]Finding, error) {
	if address, set := m.settings["webhook-address"]; set && address == "" {
		return []Finding{{Level: Note, Message: "webhook.enabled is false: older versions of SMI objects are not served, and objects that make no sense are not refused"}}, nil
	}
	converted, err := m.twice(ctx, m.converted)
	if err != nil {
		return nil, err
	}
	judged, err := m.twice(ctx, m.judged)
	if err != nil {
		return []Finding{converted}, err
	}
	return []Finding{converted, judged}, nil
}

// twice looks again at what fails: the API server may have been told a moment ago.
func (m *mesh) twice(ctx context.Context, look func(context.Context) (Finding, error)) (Finding, error) {
	f, err := look(ctx)
	if err == nil && f.Level != Failed {
		return f, nil
	}
	if !m.pause(ctx) {
		return f, err
	}
	return look(ctx)
}

// converted tries a TrafficSplit of the oldest version.
func (m *mesh) converted(ctx context.Context) (Finding, error) {
	const name = "trafficsplits." + smi.SplitGroup
	definitions := m.Cluster.Dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	crd, err := definitions.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return Finding{Level: Note, Message: "there are no TrafficSplits to be converted"}, nil
	}
	if err != nil {
		return Finding{}, fmt.Errorf("get CustomResourceDefinition %s: %w", name, err)
	}
	switch in := smi.ConvertedIn(crd.Object); {
	case crd.GetLabels()["app.kubernetes.io/name"] != "tulle":
		return Finding{Level: OK, Message: name + " is somebody else's, and converted by them"}, nil
	case in == "":
		return Finding{
			Level: Failed, Message: "the API server is not told to have SMI objects converted: older versions are not served",
			Next: "the leading controller does that within seconds; else look at its logs: kubectl -n " + m.Namespace + " logs -l app.kubernetes.io/component=controller",
		}, nil
	case in != m.Namespace:
		return Finding{Level: Note, Message: "SMI objects are converted by the mesh in namespace " + in}, nil
	}
	spec := map[string]any{"service": "check", "backends": []any{map[string]any{"service": "check", "weight": "500m"}}}
	err = m.try(ctx, smi.SplitGroup, "v1alpha1", "TrafficSplit", "trafficsplits", spec)
	if apierrors.IsForbidden(err) {
		return Finding{Level: Note, Message: "you may not create TrafficSplits in " + m.Namespace + ", so whether they are converted is not known"}, nil
	}
	if err != nil {
		return Finding{Level: Failed, Message: "the API server cannot have SMI objects converted, so that only " + storageOf(crd) + " of TrafficSplits works: " + err.Error(), Next: nextForWebhook(err)}, nil
	}
	return Finding{Level: OK, Message: "the API server has SMI objects converted"}, nil
}

// judged tries an object that makes no sense.
func (m *mesh) judged(ctx context.Context) (Finding, error) {
	spec := map[string]any{"matches": []any{map[string]any{"name": "check", "pathRegex": "("}}}
	err := m.try(ctx, smi.SpecsGroup, "v1alpha4", "HTTPRouteGroup", "httproutegroups", spec)
	switch {
	case err != nil && strings.Contains(err.Error(), string(problem.InvalidRegex)):
		return Finding{Level: OK, Message: "the API server has SMI objects judged"}, nil
	case apierrors.IsForbidden(err) || apierrors.IsNotFound(err):
		return Finding{Level: Note, Message: "you may not create HTTPRouteGroups in " + m.Namespace + ", so whether they are judged is not known"}, nil
	case err != nil:
		return Finding{}, fmt.Errorf("try an HTTPRouteGroup: %w", err)
	}
	return Finding{Level: Failed, Message: "the API server does not have SMI objects judged: those that make no sense are taken, and reported by Events only", Next: nextForWebhook(nil)}, nil
}

// try has the API server do all that it does for an object, but store it.
func (m *mesh) try(ctx context.Context, group, version, kind, resource string, spec map[string]any) error {
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": group + "/" + version, "kind": kind, "metadata": map[string]any{"name": "tulle-check", "namespace": m.Namespace}, "spec": spec,
	}}
	_, err := m.Cluster.Dynamic.Resource(schema.GroupVersionResource{Group: group, Version: version, Resource: resource}).
		Namespace(m.Namespace).Create(ctx, o, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	return err
}

func storageOf(crd *unstructured.Unstructured) string {
	if served := install.ServedVersions(crd); len(served) > 0 {
		return served[0]
	}
	return "the stored version"
}

func nextForWebhook(err error) string {
	if err != nil && strings.Contains(err.Error(), "x509") {
		return "the API server trusts another CA than the controllers'; the leading one corrects that within 10 s, unless somebody sets caBundle back again (GitOps?)"
	}
	return "the API server has to reach port 15017 of the controllers' pods (a firewall between control plane and nodes?); webhook.enabled=false does without"
}
