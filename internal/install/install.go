package install

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tulle-mesh/tulle/internal/version"
)

// Installer installs, upgrades and removes one release.
type Installer struct {
	Cluster   *Cluster
	Namespace string
	Out       io.Writer     // takes progress, a line for each change
	Timeout   time.Duration // of each thing that is waited for; default 5 minutes
	Poll      time.Duration // default 500 ms
}

// Options say what Install does besides.
type Options struct {
	Values     Values
	SkipCRDs   bool
	SkipChecks bool // don't look at the cluster's DNS before the first installation
	NoWait     bool // return when everything is applied
}

// Install makes the cluster hold the release with exactly these values, whatever was installed before, and waits until
// the mesh works. Installing the same again changes nothing.
func (i *Installer) Install(ctx context.Context, o Options) error {
	rendered, err := i.render(o.Values)
	if err != nil {
		return err
	}
	if err := i.refuseHelm(ctx); err != nil {
		return err
	}
	if err := i.refuseUnknownKinds(rendered.Objects); err != nil {
		return err
	}
	old, err := ReadRecord(ctx, i.Cluster, i.Namespace)
	if err != nil {
		return err
	}
	if old == nil {
		old = &Record{}
		if err := i.refuseDNS(ctx, rendered, o.SkipChecks); err != nil {
			return err
		}
	}
	if err := i.ensureNamespace(ctx); err != nil {
		return err
	}
	next := &Record{Version: version.Version, Values: o.Values, Objects: refs(rendered.Objects), CRDs: old.CRDs}
	if !o.SkipCRDs {
		if next.CRDs, err = i.applyCRDs(ctx, rendered.CRDs, hasWebhooks(rendered.Objects)); err != nil {
			return err
		}
	}
	// Until the old objects are gone the record names them, too: an interrupted upgrade can be finished.
	both := *next
	both.Objects = slices.Concat(next.Objects, old.Objects)
	if err := i.writeRecord(ctx, &both); err != nil {
		return err
	}
	if err := i.applyAll(ctx, rendered.Objects, o.NoWait); err != nil {
		return err
	}
	if err := i.prune(ctx, without(old.Objects, next.Objects)); err != nil {
		return err
	}
	if err := i.writeRecord(ctx, next); err != nil {
		return err
	}
	if o.NoWait {
		i.say("applied, not waited for; `tulle check` says whether it works")
		return nil
	}
	return i.waitUntilItWorks(ctx, rendered.Objects)
}

func (i *Installer) render(values Values) (Rendered, error) {
	kube, err := i.Cluster.KubeVersion()
	if err != nil {
		return Rendered{}, err
	}
	return Render(Release{Namespace: i.Namespace, Values: values, KubeVersion: kube})
}

// refuseUnknownKinds fails before anything is written if the cluster lacks a kind.
func (i *Installer) refuseUnknownKinds(objects []*unstructured.Unstructured) error {
	for _, o := range objects {
		if _, err := i.Cluster.resource(o.GroupVersionKind(), o.GetNamespace()); err != nil {
			return Explain(err)
		}
	}
	return nil
}

// applyAll applies the objects in order. Pods of the proxy can't start before the controllers and tulle-identity made the
// ConfigMaps that they mount, and the kubelet tries that again ever more rarely: unless told not to wait, they are made
// after them.
func (i *Installer) applyAll(ctx context.Context, objects []*unstructured.Unstructured, noWait bool) error {
	for _, o := range objects {
		if o.GetKind() == "DaemonSet" && !noWait {
			if err := i.waitForCA(ctx); err != nil {
				return err
			}
			if err := i.waitForSigners(ctx, objects); err != nil {
				return err
			}
		}
		if err := i.Cluster.apply(ctx, o); err != nil {
			return err
		}
	}
	i.say("%d objects applied", len(objects))
	return nil
}

// prune deletes what an earlier version installed and this one doesn't.
func (i *Installer) prune(ctx context.Context, gone []Ref) error {
	for _, ref := range gone {
		o, err := i.Cluster.get(ctx, ref)
		if isNotFound(err) {
			continue
		}
		if err == nil && !i.ours(o) {
			i.say("%s is not tulle's any more: left as it is", ref)
			continue
		}
		if err == nil {
			err = i.Cluster.delete(ctx, ref)
		}
		if err != nil && !isNotFound(err) {
			return Explain(fmt.Errorf("delete %s: %w", ref, err))
		}
		i.say("%s deleted: this version doesn't need it", ref)
	}
	return nil
}

// ours is true if this release installed the object.
func (i *Installer) ours(o *unstructured.Unstructured) bool {
	if o.GetLabels()["tulle.dev/mesh"] == i.Namespace && o.GetLabels()["app.kubernetes.io/managed-by"] == controllerName {
		return true
	}
	return o.GetLabels()["app.kubernetes.io/name"] == "tulle" && o.GetAnnotations()[releaseNamespaceAnnotation] == i.Namespace
}

func (i *Installer) writeRecord(ctx context.Context, r *Record) error {
	o, err := r.object(i.Namespace)
	if err != nil {
		return err
	}
	return i.Cluster.apply(ctx, o)
}

// refuseHelm refuses to change a release that Helm keeps track of: its next upgrade would undo the change.
func (i *Installer) refuseHelm(ctx context.Context) error {
	names, err := i.helmRecords(ctx)
	if err != nil || len(names) == 0 {
		return err
	}
	return WithNext(fmt.Errorf("the mesh in %s was installed by Helm", i.Namespace),
		"use `helm upgrade`; or let tulle take over: kubectl -n %s delete secret -l owner=helm,name=%s", i.Namespace, ReleaseName)
}

// helmRecords returns the names of the Secrets in which Helm remembers the release.
func (i *Installer) helmRecords(ctx context.Context) ([]string, error) {
	list, err := i.Cluster.Kube.CoreV1().Secrets(i.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "owner=helm,name=" + ReleaseName})
	if err != nil {
		return nil, Explain(fmt.Errorf("look for a Helm release in %s: %w", i.Namespace, err))
	}
	var out []string
	for _, s := range list.Items {
		out = append(out, s.Name)
	}
	return out, nil
}

func (i *Installer) say(format string, args ...any) { fmt.Fprintf(i.Out, format+"\n", args...) }

func refs(objects []*unstructured.Unstructured) []Ref {
	out := make([]Ref, 0, len(objects))
	for _, o := range objects {
		out = append(out, refOf(o))
	}
	return out
}
