package check

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/version"

	"github.com/tulle-mesh/tulle/internal/corefile"
	"github.com/tulle-mesh/tulle/internal/install"
)

func (c *Checker) kubernetes(context.Context) ([]Finding, error) {
	text, err := c.Cluster.KubeVersion()
	if err != nil {
		return nil, err
	}
	v, err := version.ParseGeneric(text)
	switch {
	case err != nil:
		return []Finding{{Level: Note, Message: "the cluster's version can't be read: " + text}}, nil
	case v.LessThan(version.MajorMinor(1, 30)):
		return []Finding{{Level: Failed, Message: "Kubernetes " + text + " is too old: 1.30 is needed", Next: "upgrade the cluster"}}, nil
	case v.LessThan(version.MajorMinor(1, 34)):
		return []Finding{{
			Level: Note, Message: "Kubernetes " + text + " can't prefer the own node's proxy and fail over to others",
			Next: "1.34 can; until then calls fail on a node for as long as its proxy is down (addresses.firstHop=local)",
		}}, nil
	}
	return []Finding{{Level: OK, Message: "Kubernetes " + text}}, nil
}

// permissions asks whether the user may make what the release consists of.
func (c *Checker) permissions(ctx context.Context, r install.Rendered) ([]Finding, error) {
	type kind struct {
		gvk       schema.GroupVersionKind
		namespace string
	}
	kinds := []kind{{corev1.SchemeGroupVersion.WithKind("Namespace"), ""}}
	for _, o := range slices.Concat(r.CRDs, r.Objects) {
		k := kind{o.GroupVersionKind(), o.GetNamespace()}
		if !slices.Contains(kinds, k) {
			kinds = append(kinds, k)
		}
	}
	var denied []string
	for _, k := range kinds {
		m, err := c.Cluster.Mapper.RESTMapping(k.gvk.GroupKind(), k.gvk.Version)
		if err != nil {
			return nil, fmt.Errorf("find the resource of %s: %w", k.gvk.Kind, err)
		}
		for _, verb := range []string{"get", "create", "patch", "delete"} {
			may, err := c.may(ctx, authorizationv1.ResourceAttributes{Namespace: k.namespace, Verb: verb, Group: m.Resource.Group, Resource: m.Resource.Resource})
			if err != nil {
				return nil, err
			}
			if !may {
				denied = append(denied, strings.TrimSpace(fmt.Sprintf("%s %s %s", verb, m.Resource.Resource, k.namespace)))
			}
		}
	}
	if len(denied) > 0 {
		return []Finding{{Level: Failed, Message: "you may not: " + strings.Join(denied, "; "), Next: "use a kubeconfig whose user may; cluster-admin may"}}, nil
	}
	return []Finding{{Level: OK, Message: "you may install the mesh"}}, nil
}

func (c *Checker) may(ctx context.Context, what authorizationv1.ResourceAttributes) (bool, error) {
	review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &what}}
	review, err := c.Cluster.Kube.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("ask what you may do: %w", err)
	}
	return review.Status.Allowed, nil
}

func (c *Checker) namespace(ctx context.Context) ([]Finding, error) {
	ns, err := c.Cluster.Kube.CoreV1().Namespaces().Get(ctx, c.Namespace, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return []Finding{{Level: OK, Message: "namespace " + c.Namespace + " will be created"}}, nil
	case err != nil:
		return nil, fmt.Errorf("get namespace %s: %w", c.Namespace, err)
	case ns.Status.Phase == corev1.NamespaceTerminating:
		return []Finding{{Level: Failed, Message: "namespace " + c.Namespace + " is being deleted", Next: "wait until it is gone"}}, nil
	}
	return []Finding{{Level: OK, Message: "namespace " + c.Namespace + " exists"}}, nil
}

// zones refuses zones that the cluster's DNS or a namespace's owner could answer for.
func (c *Checker) zones(ctx context.Context, s install.Settings) ([]Finding, error) {
	var out []Finding
	for _, zone := range s.List("zones") {
		if err := corefile.ValidZone(zone, s["cluster-domain"]); err != nil {
			out = append(out, Finding{Level: Failed, Message: err.Error(), Next: "choose another zone: --set zones={...}"})
			continue
		}
		name := corefile.Hijack(zone)
		_, err := c.Cluster.Kube.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		switch {
		case err == nil:
			out = append(out, Finding{
				Level:   Failed,
				Message: fmt.Sprintf("namespace %s exists: by the usual search paths its Services answer for names of the zone %s", name, zone),
				Next:    "choose a zone whose last label is no namespace, or remove the namespace",
			})
		case !apierrors.IsNotFound(err):
			return out, fmt.Errorf("get namespace %s: %w", name, err)
		default:
			out = append(out, Finding{Level: OK, Message: fmt.Sprintf("nobody can take over names of the zone %s", zone)})
		}
	}
	return out, nil
}

// crds says which SMI kinds the cluster serves, and in which versions.
func (c *Checker) crds(ctx context.Context) ([]Finding, error) {
	kinds := []struct{ name, newest string }{
		{"trafficsplits.split.smi-spec.io", "v1alpha4"},
		{"httproutegroups.specs.smi-spec.io", "v1alpha4"},
		{"tcproutes.specs.smi-spec.io", "v1alpha4"},
		{"udproutes.specs.smi-spec.io", "v1alpha4"},
		{"traffictargets.access.smi-spec.io", "v1alpha3"},
	}
	client := c.Cluster.Dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	var missing []string
	var out []Finding
	for _, k := range kinds {
		crd, err := client.Get(ctx, k.name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			missing = append(missing, k.name)
			continue
		}
		if err != nil {
			return out, fmt.Errorf("get CustomResourceDefinition %s: %w", k.name, err)
		}
		if f := foreign(crd, k.newest); f != nil {
			out = append(out, *f)
		}
	}
	if len(missing) > 0 {
		out = append(out, Finding{Level: Note, Message: "the cluster doesn't have " + strings.Join(missing, ", "), Next: "`tulle install` adds them"})
	}
	if len(out) == 0 {
		out = append(out, Finding{Level: OK, Message: "all SMI kinds are served"})
	}
	return out, nil
}

func foreign(crd *unstructured.Unstructured, newest string) *Finding {
	if crd.GetLabels()["app.kubernetes.io/name"] == "tulle" {
		return nil
	}
	served := install.ServedVersions(crd)
	f := Finding{Level: Note, Message: fmt.Sprintf("%s is somebody else's and serves %s", crd.GetName(), strings.Join(served, ", "))}
	if len(served) == 0 {
		f.Level, f.Next = Failed, "make it serve a version, or remove it and install again"
	} else if !slices.Contains(served, newest) {
		f.Next = "the mesh works with these versions; what only " + newest + " can say can't be said"
	}
	return &f
}

// room estimates how many Services the cluster still has addresses for.
func (c *Checker) room(ctx context.Context) ([]Finding, error) {
	list, err := c.Cluster.Kube.NetworkingV1().ServiceCIDRs().List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return []Finding{{Level: Note, Message: "the cluster doesn't say how many ClusterIPs it has"}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list ServiceCIDRs: %w", err)
	}
	var prefixes []netip.Prefix
	for _, item := range list.Items {
		for _, text := range item.Spec.CIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				prefixes = append(prefixes, p)
			}
		}
	}
	services, err := c.Cluster.Kube.CoreV1().Services(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list Services: %w", err)
	}
	return roomIn(prefixes, services.Items), nil
}

func roomIn(prefixes []netip.Prefix, services []corev1.Service) []Finding {
	var out []Finding
	for _, family := range []struct {
		name string
		is   func(netip.Addr) bool
		bits int
	}{{"IPv4", netip.Addr.Is4, 32}, {"IPv6", netip.Addr.Is6, 128}} {
		size, used := 0, 0
		for _, p := range prefixes {
			if family.is(p.Addr()) {
				size += 1 << min(family.bits-p.Bits(), 20)
			}
		}
		for _, s := range services {
			for _, text := range s.Spec.ClusterIPs {
				if ip, err := netip.ParseAddr(text); err == nil && family.is(ip) {
					used++
				}
			}
		}
		if size == 0 {
			continue
		}
		f := Finding{Level: OK, Message: fmt.Sprintf("%d of %d %s ClusterIPs are free", max(size-used, 0), size, family.name)}
		if free := size - used; free < 64 || free < size/20 {
			f.Level, f.Next = Failed, "add a ServiceCIDR, or set addresses.http=shared, which needs one address for all HTTP services"
		}
		out = append(out, f)
	}
	return out
}
