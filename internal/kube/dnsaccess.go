package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/tulle-mesh/tulle/internal/corefile"
	"github.com/tulle-mesh/tulle/internal/problem"
)

// DNSAccess is access to the configuration of a cluster's DNS.
type DNSAccess struct {
	Client    kubernetes.Interface
	Dynamic   dynamic.Interface // nil: never OpenShift
	Namespace string            // the mesh's
	// ConfigMaps are the ones that may be read and changed; the workloads of the cluster's DNS are looked for in their
	// namespaces. Keys don't matter.
	ConfigMaps []corefile.Place
	// Nameservers are what pods of the cluster ask, if known: those of a pod's own resolv.conf.
	Nameservers []netip.Addr
}

const dnsFieldManager = "tulle-dns"

var openShiftDNS = schema.GroupVersionResource{Group: "operator.openshift.io", Version: "v1", Resource: "dnses"}

// dnsObject is the object of a Target as it was read, or as it is to be.
type dnsObject struct {
	target corefile.Target
	cm     *corev1.ConfigMap // nil if it does not exist
	main   *corev1.ConfigMap // the Corefile's own
	dns    map[string]any    // OpenShift's
}

// detect looks at the cluster and says which objects have to carry the stub domain.
func (a DNSAccess) detect(ctx context.Context) ([]corefile.Target, error) {
	c, err := a.look(ctx)
	if err != nil {
		return nil, err
	}
	return corefile.Detect(c)
}

func (a DNSAccess) look(ctx context.Context) (c corefile.Cluster, err error) {
	if c, err = a.surroundings(ctx); err == nil {
		c.ConfigMaps, err = a.listed(ctx, a.configMap)
	}
	return c, err
}

// listed are the ConfigMaps that may be read and that exist.
func (a DNSAccess) listed(ctx context.Context, read func(context.Context, corefile.Place) (*corev1.ConfigMap, error)) ([]*corev1.ConfigMap, error) {
	var out []*corev1.ConfigMap
	for _, p := range a.ConfigMaps {
		cm, err := read(ctx, p)
		if err != nil {
			return nil, err
		}
		if cm != nil {
			out = append(out, cm)
		}
	}
	return out, nil
}

// surroundings are everything but the ConfigMaps.
func (a DNSAccess) surroundings(ctx context.Context) (corefile.Cluster, error) {
	c := corefile.Cluster{Mesh: a.Namespace, Listed: a.ConfigMaps, Nameservers: a.Nameservers}
	dns, err := a.openShift(ctx)
	if err != nil {
		return c, err
	}
	namespaces := a.namespaces()
	if c.OpenShift = dns != nil; c.OpenShift {
		namespaces = []string{"openshift-dns"}
	}
	for _, ns := range namespaces {
		if err := a.lookInto(ctx, ns, &c); err != nil {
			return c, err
		}
	}
	nodes, err := a.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return c, fmt.Errorf("list nodes: %w", err)
	}
	c.GCE = slices.ContainsFunc(nodes.Items, func(n corev1.Node) bool { return strings.HasPrefix(n.Spec.ProviderID, "gce://") })
	return c, nil
}

func (a DNSAccess) lookInto(ctx context.Context, namespace string, c *corefile.Cluster) error {
	deployments, err := a.Client.AppsV1().Deployments(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list Deployments of %s: %w", namespace, err)
	}
	for i := range deployments.Items {
		c.Workloads = append(c.Workloads, corefile.FromDeployment(&deployments.Items[i]))
	}
	daemons, err := a.Client.AppsV1().DaemonSets(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list DaemonSets of %s: %w", namespace, err)
	}
	for i := range daemons.Items {
		c.Workloads = append(c.Workloads, corefile.FromDaemonSet(&daemons.Items[i]))
	}
	services, err := a.Client.CoreV1().Services(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list Services of %s: %w", namespace, err)
	}
	for i := range services.Items {
		c.Services = append(c.Services, &services.Items[i])
	}
	return nil
}

func (a DNSAccess) namespaces() []string {
	var out []string
	for _, p := range a.ConfigMaps {
		if !slices.Contains(out, p.Namespace) {
			out = append(out, p.Namespace)
		}
	}
	return out
}

// configMap returns nil if it does not exist.
func (a DNSAccess) configMap(ctx context.Context, p corefile.Place) (*corev1.ConfigMap, error) {
	cm, err := a.Client.CoreV1().ConfigMaps(p.Namespace).Get(ctx, p.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read ConfigMap %s: %w", p, err)
	}
	return cm, nil
}

// openShift returns the DNS operator's object, nil on other clusters.
func (a DNSAccess) openShift(ctx context.Context) (map[string]any, error) {
	if a.Dynamic == nil {
		return nil, nil
	}
	u, err := a.Dynamic.Resource(openShiftDNS).Get(ctx, "default", metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err), meta.IsNoMatchError(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read DNS default of operator.openshift.io: %w", err)
	}
	return u.Object, nil
}

func (a DNSAccess) read(ctx context.Context, t corefile.Target) (o dnsObject, err error) {
	o.target = t
	if t.Kind == corefile.OpenShift {
		o.dns, err = a.openShift(ctx)
		if err == nil && o.dns == nil {
			err = errors.New("DNS default of operator.openshift.io is gone")
		}
		return o, err
	}
	if o.cm, err = a.configMap(ctx, t.Place); err != nil {
		return o, err
	}
	if o.main = o.cm; t.Main != t.Place {
		o.main, err = a.configMap(ctx, t.Main)
	}
	return o, err
}

// write replaces what was read; if that has changed since, it is a conflict.
func (a DNSAccess) write(ctx context.Context, was, is dnsObject) error {
	p := is.target.Place
	maps := a.Client.CoreV1().ConfigMaps(p.Namespace)
	var err error
	switch {
	case is.dns != nil:
		_, err = a.Dynamic.Resource(openShiftDNS).Update(ctx, &unstructured.Unstructured{Object: is.dns}, metav1.UpdateOptions{FieldManager: dnsFieldManager})
	case is.cm == nil:
		err = maps.Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &was.cm.ResourceVersion}})
	case was.cm == nil:
		err = a.applyConfigMap(ctx, is.cm)
	default:
		_, err = maps.Update(ctx, is.cm, metav1.UpdateOptions{FieldManager: dnsFieldManager})
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", is.name(), err)
	}
	return nil
}

func (o dnsObject) patch(b corefile.Block) (dnsObject, error) {
	out := o
	var err error
	if o.target.Kind == corefile.OpenShift {
		out.dns, err = b.PatchOpenShift(o.dns)
	} else {
		out.cm, err = o.target.Patch(o.cm, o.main, b)
	}
	if o.target.Main == o.target.Place {
		out.main = out.cm
	}
	return out, err
}

func (o dnsObject) unpatch(mesh string) (dnsObject, error) {
	out := o
	var err error
	switch {
	case o.target.Kind == corefile.OpenShift:
		out.dns = corefile.UnpatchOpenShift(o.dns, mesh)
	case o.cm != nil:
		out.cm, err = o.target.Unpatch(o.cm, mesh)
	}
	if o.target.Main == o.target.Place {
		out.main = out.cm
	}
	return out, err
}

func (o dnsObject) same(p dnsObject) bool {
	if o.target.Kind == corefile.OpenShift {
		return equal(o.dns, p.dns)
	}
	return (o.cm == nil) == (p.cm == nil) && (o.cm == nil || equal(o.cm.Data, p.cm.Data) && equal(o.cm.Annotations, p.cm.Annotations))
}

// text is what the mesh's part of the object stands in.
func (o dnsObject) text() string {
	switch {
	case o.target.Kind == corefile.OpenShift:
		spec, _ := json.Marshal(o.dns["spec"]) // decoded from JSON
		return string(spec)
	case o.cm == nil:
		return ""
	}
	return o.cm.Data[o.target.Key]
}

func (o dnsObject) name() string {
	if o.target.Kind == corefile.OpenShift {
		return "DNS default of operator.openshift.io"
	}
	return "ConfigMap " + o.target.String()
}

func (o dnsObject) ref() problem.Ref {
	if o.target.Kind == corefile.OpenShift {
		return problem.Ref{APIVersion: "operator.openshift.io/v1", Kind: "DNS", Name: "default"}
	}
	return configMapRef(o.target.Namespace, o.target.Name)
}

// reloads says how long the cluster's DNS may take to notice that its files have changed; 0 = it never does.
func (o dnsObject) reloads() time.Duration {
	if o.target.Kind == corefile.OpenShift || o.target.Kind == corefile.KubeDNS {
		return time.Minute
	}
	var texts []string
	for _, cm := range []*corev1.ConfigMap{o.main, o.cm} {
		if cm != nil {
			for _, text := range cm.Data {
				texts = append(texts, text)
			}
		}
	}
	return corefile.Reloads(texts...)
}

// texts are all that a trial starts with.
func (o dnsObject) texts() []map[string]string {
	var out []map[string]string
	for _, cm := range []*corev1.ConfigMap{o.main, o.cm} {
		if cm != nil {
			out = append(out, cm.Data)
		}
	}
	return out
}
