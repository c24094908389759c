package install

import (
	"context"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tulle-mesh/tulle/internal/status"
)

// sought is a kind of which the mesh may have objects, and how they are told from others'.
type sought struct {
	apiVersion, kind string
	// everywhere: in other namespaces, too, or cluster-scoped. Those have to carry the release's annotation, or the
	// controllers' label with the mesh's namespace.
	everywhere bool
	selector   string
}

// made lists all kinds of what the chart and the controllers make. Uninstalling looks for them instead of trusting a
// record, so that a release that Helm installed, or that an older version left behind, goes as a whole.
func made() []sought {
	const chart, controller = "app.kubernetes.io/name=tulle", "app.kubernetes.io/managed-by=tulle-controller"
	const admission, rbac, monitoring = "admissionregistration.k8s.io/v1", "rbac.authorization.k8s.io/v1", "monitoring.coreos.com/v1"
	return []sought{
		{"apps/v1", "Deployment", false, chart},
		{"apps/v1", "DaemonSet", false, chart},
		{"v1", "Service", false, chart},
		{"v1", "Service", false, controller},
		{"discovery.k8s.io/v1", "EndpointSlice", false, "endpointslice.kubernetes.io/managed-by=tulle-controller"},
		{"v1", "ServiceAccount", false, chart},
		{"v1", "ConfigMap", false, chart},
		{"v1", "ConfigMap", false, controller},
		{"v1", "Secret", false, controller},
		{"v1", "Secret", false, "owner=helm,name=" + ReleaseName},
		{"v1", "ResourceQuota", false, chart},
		{"policy/v1", "PodDisruptionBudget", false, chart},
		{"networking.k8s.io/v1", "NetworkPolicy", false, chart},
		{"networking.k8s.io/v1", "NetworkPolicy", true, controller},
		{monitoring, "PodMonitor", false, chart},
		{monitoring, "PrometheusRule", false, chart},
		{rbac, "Role", true, chart},
		{rbac, "RoleBinding", true, chart},
		{rbac, "ClusterRole", true, chart},
		{rbac, "ClusterRoleBinding", true, chart},
		{admission, validationKind, true, chart},
		{admission, "ValidatingAdmissionPolicy", true, chart},
		{admission, "ValidatingAdmissionPolicyBinding", true, chart},
	}
}

// named are objects of the controllers that may lack a label.
func (i *Installer) named() []Ref {
	ns := i.Namespace
	return []Ref{
		{"v1", "ConfigMap", ns, caName},
		{"v1", "ConfigMap", ns, status.ConfigMap},
		{"v1", "ConfigMap", ns, "tulle-dns"},
		{"v1", "ConfigMap", ns, "tulle-dns-trial"},
		{"v1", "ConfigMap", ns, recordName},
		{"v1", "ConfigMap", ns, "tulle-trust"},
		{"v1", "Secret", ns, "tulle-controller-tls"},
		{"v1", "Secret", ns, "tulle-identity-ca"},
		{"v1", "Secret", ns, "tulle-traefik-tls"},
		{"v1", "Pod", ns, "tulle-dns-trial"},
		{"coordination.k8s.io/v1", "Lease", ns, controllerName},
		{"coordination.k8s.io/v1", "Lease", ns, dnsName},
	}
}

// find returns all objects of the mesh but the namespace, the CRDs and Events.
func (i *Installer) find(ctx context.Context) ([]Ref, error) {
	var out []Ref
	add := func(r Ref) {
		if !slices.ContainsFunc(out, r.same) {
			out = append(out, r)
		}
	}
	for _, s := range made() {
		objects, err := i.list(ctx, s)
		if err != nil {
			return nil, Explain(err)
		}
		for _, o := range objects {
			if !s.everywhere || i.ours(&o) {
				add(Ref{s.apiVersion, s.kind, o.GetNamespace(), o.GetName()})
			}
		}
	}
	record, err := ReadRecord(ctx, i.Cluster, i.Namespace)
	if err != nil {
		return nil, err
	}
	recorded := func(r Ref) bool { return record != nil && slices.ContainsFunc(record.Objects, r.same) }
	names := i.named()
	if record != nil {
		names = append(names, without(record.Objects, out)...)
	}
	for _, ref := range names {
		o, err := i.Cluster.get(ctx, ref)
		if err != nil && !isNotFound(err) {
			return nil, Explain(fmt.Errorf("get %s: %w", ref, err))
		}
		if err == nil && (!recorded(ref) || i.ours(o)) {
			add(ref)
		}
	}
	return out, nil
}

// list returns what fits, nothing if the cluster doesn't know the kind.
func (i *Installer) list(ctx context.Context, s sought) ([]unstructured.Unstructured, error) {
	namespace := i.Namespace
	if s.everywhere {
		namespace = metav1.NamespaceAll
	}
	r, err := i.Cluster.resource(schema.FromAPIVersionAndKind(s.apiVersion, s.kind), namespace)
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list, err := r.List(ctx, metav1.ListOptions{LabelSelector: s.selector})
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list %ss: %w", s.kind, err)
	}
	return list.Items, nil
}

// ourCRDs returns the SMI CRDs that tulle installed.
func (i *Installer) ourCRDs(ctx context.Context) ([]Ref, error) {
	list, err := i.list(ctx, sought{"apiextensions.k8s.io/v1", crdKind, true, "app.kubernetes.io/name=tulle"})
	if err != nil {
		return nil, Explain(err)
	}
	var out []Ref
	for _, o := range list {
		out = append(out, Ref{"apiextensions.k8s.io/v1", crdKind, "", o.GetName()})
	}
	return out, nil
}
