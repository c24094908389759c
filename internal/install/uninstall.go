package install

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// UninstallOptions say what Uninstall does.
type UninstallOptions struct {
	Force  bool          // also while clients use mesh names
	CRDs   bool          // remove the SMI CRDs that tulle installed, and with them all SMI objects
	Window time.Duration // for how long it looks whether clients use mesh names; default 10 s
	// RestoreDNS takes the mesh's block out of the cluster's DNS and returns when no pod of it uses it any more; nil =
	// by the settings of the installed mesh.
	RestoreDNS func(context.Context) error
}

// Uninstall takes the mesh out of the cluster. The order keeps objects and names working: first SMI objects are made
// independent of the controllers, then these stop, and what would put the block back into the cluster's DNS, then that is
// restored, then the proxies go and everything else.
func (i *Installer) Uninstall(ctx context.Context, o UninstallOptions) error {
	found, err := i.find(ctx)
	if err != nil {
		return err
	}
	ns, err := i.Cluster.namespace(ctx, i.Namespace)
	if err != nil {
		return err
	}
	converted, err := i.definitions(ctx)
	if err != nil {
		return err
	}
	if len(found) == 0 && len(converted) == 0 && (ns == nil || ns.Annotations[createdAnnotation] == "") && !o.CRDs {
		i.say("the mesh is not installed in namespace %s: nothing to remove", i.Namespace)
		return nil
	}
	if o.RestoreDNS == nil {
		if o.RestoreDNS, err = i.restoreDNS(ctx); err != nil {
			return err
		}
	}
	if !o.Force {
		if err := i.refuseInUse(ctx, cmp.Or(o.Window, 10*time.Second)); err != nil {
			return err
		}
	}
	if err := i.releaseObjects(ctx); err != nil {
		return err
	}
	if err := i.stopWriters(ctx); err != nil {
		return err
	}
	if err := i.invite(ctx); err != nil {
		return err
	}
	if err := o.RestoreDNS(ctx); err != nil {
		return WithNext(fmt.Errorf("restore the cluster's DNS: %w", err), "take the block out by hand (docs/dns.md), then run the command again; or `tulle upgrade` starts the controllers again")
	}
	i.say("the cluster's DNS no longer knows the mesh")
	if err := i.removeAll(ctx, found); err != nil {
		return err
	}
	if ns != nil && ns.Annotations[createdAnnotation] != "" {
		if err := i.removeNamespace(ctx); err != nil {
			return err
		}
	}
	if o.CRDs {
		if err := i.removeCRDs(ctx); err != nil {
			return err
		}
	}
	i.say("the mesh is removed")
	return nil
}

// refuseInUse fails if a client used a mesh name within the window.
func (i *Installer) refuseInUse(ctx context.Context, window time.Duration) error {
	const force = "switch the clients to the plain names first; --force removes the mesh all the same, and their calls will fail"
	before, err := i.usage(ctx)
	if err != nil {
		return WithNext(fmt.Errorf("see whether clients use mesh names: %w", err), "%s", "check that you may port-forward to pods in "+i.Namespace+"; or "+force)
	}
	i.say("looking for %s whether clients use mesh names", window)
	select {
	case <-ctx.Done():
		return WithNext(errors.New("interrupted; nothing was removed"), "run the command again")
	case <-time.After(window):
	}
	after, err := i.usage(ctx)
	if err != nil {
		return WithNext(fmt.Errorf("see whether clients use mesh names: %w", err), "%s", "run the command again; or "+force)
	}
	if used := after.since(before); used != "" {
		return WithNext(fmt.Errorf("clients use mesh names: %s", used), force)
	}
	return nil
}

// stopWriters scales to none whatever writes to the cluster, the cluster's DNS included, and waits until it is gone. With an
// older version the controllers do all of that.
func (i *Installer) stopWriters(ctx context.Context) error {
	patch := []byte(`{"spec":{"replicas":0}}`)
	var stopped []string
	for _, component := range []string{"controller", "dns"} {
		name := "tulle-" + component
		_, err := i.Cluster.Kube.AppsV1().Deployments(i.Namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
		if err != nil && !isNotFound(err) {
			return Explain(fmt.Errorf("stop Deployment %s: %w", name, err))
		}
		if err == nil {
			stopped = append(stopped, component)
		}
	}
	for _, component := range stopped {
		if err := i.waitForNoPods(ctx, component); err != nil {
			return err
		}
	}
	return nil
}

func (i *Installer) waitForNoPods(ctx context.Context, component string) error {
	err := i.wait(ctx, component+" pods to end", func(ctx context.Context) (string, error) {
		pods, err := i.Cluster.Kube.CoreV1().Pods(i.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector(component)})
		if err != nil || len(pods.Items) == 0 {
			return "", err
		}
		return fmt.Sprintf("%d left", len(pods.Items)), nil
	})
	return WithNext(err, "see why they stay: kubectl -n %s get pods -l %s", i.Namespace, selector(component))
}

// removeAll deletes what was found, workloads first, and waits until their pods are gone: a pod's end makes objects, too.
func (i *Installer) removeAll(ctx context.Context, found []Ref) error {
	slices.SortStableFunc(found, func(a, b Ref) int { return cmp.Or(-cmp.Compare(order(a.Kind), order(b.Kind)), compareRefs(a, b)) })
	workload := func(r Ref) bool {
		// NetworkPolicies of other namespaces shut out who has switched to plain names.
		return r.Kind == "Deployment" || r.Kind == "DaemonSet" || r.Kind == "Pod" || r.Kind == "NetworkPolicy" && r.Namespace != i.Namespace
	}
	first, rest := slices.DeleteFunc(slices.Clone(found), func(r Ref) bool { return !workload(r) }), slices.DeleteFunc(slices.Clone(found), workload)
	if err := i.remove(ctx, first); err != nil {
		return err
	}
	for _, component := range []string{"controller", "dns", "identity", "proxy"} {
		if err := i.waitForNoPods(ctx, component); err != nil {
			return err
		}
	}
	if err := i.remove(ctx, rest); err != nil {
		return err
	}
	if err := i.removeEvents(ctx); err != nil {
		return err
	}
	i.say("%d objects removed", len(found))
	return nil
}

func (i *Installer) remove(ctx context.Context, refs []Ref) error {
	for _, ref := range refs {
		if err := i.Cluster.delete(ctx, ref); err != nil && !isNotFound(err) {
			return Explain(fmt.Errorf("delete %s: %w", ref, err))
		}
	}
	return nil
}

// removeEvents deletes what the controllers reported about other people's objects.
func (i *Installer) removeEvents(ctx context.Context) error {
	list, err := i.Cluster.Kube.CoreV1().Events(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "source=" + controllerName})
	if err != nil {
		return Explain(fmt.Errorf("list the mesh's events: %w", err))
	}
	for _, e := range list.Items {
		err := i.Cluster.Kube.CoreV1().Events(e.Namespace).Delete(ctx, e.Name, metav1.DeleteOptions{})
		if err != nil && !isNotFound(err) {
			return Explain(fmt.Errorf("delete event %s/%s: %w", e.Namespace, e.Name, err))
		}
	}
	return nil
}

// removeNamespace deletes the namespace and waits until it is gone.
func (i *Installer) removeNamespace(ctx context.Context) error {
	err := i.Cluster.Kube.CoreV1().Namespaces().Delete(ctx, i.Namespace, metav1.DeleteOptions{})
	if err != nil && !isNotFound(err) {
		return Explain(fmt.Errorf("delete namespace %s: %w", i.Namespace, err))
	}
	err = i.wait(ctx, "namespace "+i.Namespace+" to end", func(ctx context.Context) (string, error) {
		ns, err := i.Cluster.Kube.CoreV1().Namespaces().Get(ctx, i.Namespace, metav1.GetOptions{})
		if isNotFound(err) {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		for _, c := range ns.Status.Conditions {
			if c.Status == "True" && c.Message != "" {
				return c.Message, nil
			}
		}
		return "its contents are being deleted", nil
	})
	return WithNext(err, "see what keeps it: kubectl get namespace %s -o yaml", i.Namespace)
}

// removeCRDs deletes the CRDs that tulle installed, and waits until they are gone with their objects.
func (i *Installer) removeCRDs(ctx context.Context) error {
	refs, err := i.ourCRDs(ctx)
	if err != nil {
		return err
	}
	if err := i.remove(ctx, refs); err != nil {
		return err
	}
	for _, ref := range refs {
		err := i.wait(ctx, ref.String()+" to end", func(ctx context.Context) (string, error) {
			_, err := i.Cluster.get(ctx, ref)
			if isNotFound(err) {
				return "", nil
			}
			return "its objects are being deleted", err
		})
		if err != nil {
			return WithNext(err, "see what keeps it: kubectl get crd %s -o yaml", ref.Name)
		}
	}
	i.say("%d SMI CRDs removed", len(refs))
	return nil
}
