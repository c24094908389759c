package install

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

// fieldManager owns the fields that the CLI sets.
const fieldManager = "tulle"

// Cluster is access to one cluster.
type Cluster struct {
	Kube    kubernetes.Interface
	Dynamic dynamic.Interface
	Mapper  meta.RESTMapper
	Config  *rest.Config

	Ask func(ctx context.Context, namespace, pod string, port int, path string) ([]byte, error) // stands for PodGet in tests
}

// Connect uses the kubeconfig as kubectl does; both arguments may be empty. No request is made yet.
func Connect(kubeconfig, kubecontext string) (*Cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	overrides := &clientcmd.ConfigOverrides{CurrentContext: kubecontext}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides).ClientConfig()
	if err != nil {
		return nil, WithNext(fmt.Errorf("read kubeconfig: %w", err),
			"name a cluster with --kubeconfig or --context, or set KUBECONFIG; `kubectl config get-contexts` lists contexts")
	}
	return ConnectTo(config)
}

// ConnectTo uses a client configuration as it is, but for limits and content type.
func ConnectTo(config *rest.Config) (*Cluster, error) {
	config.QPS, config.Timeout = -1, 30*time.Second // the API server limits by itself
	config.UserAgent, config.ContentType = "tulle", runtime.ContentTypeJSON
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, WithNext(fmt.Errorf("use kubeconfig: %w", err), "correct the kubeconfig")
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, WithNext(fmt.Errorf("use kubeconfig: %w", err), "correct the kubeconfig")
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(kube.Discovery()))
	return &Cluster{Kube: kube, Dynamic: dyn, Mapper: mapper, Config: config}, nil
}

// KubeVersion asks the API server for its version.
func (c *Cluster) KubeVersion() (string, error) {
	v, err := c.Kube.Discovery().ServerVersion()
	if err != nil {
		return "", Explain(fmt.Errorf("ask the cluster for its version: %w", err))
	}
	return v.GitVersion, nil
}

// resource returns the client for the kind of an object in a namespace (empty for cluster-scoped kinds).
func (c *Cluster) resource(gvk schema.GroupVersionKind, namespace string) (dynamic.ResourceInterface, error) {
	m, err := c.Mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return nil, fmt.Errorf("find the resource of %s: %w", gvk.Kind, err)
	}
	if m.Scope.Name() == meta.RESTScopeNameNamespace {
		return c.Dynamic.Resource(m.Resource).Namespace(namespace), nil
	}
	return c.Dynamic.Resource(m.Resource), nil
}

// apply makes the cluster's object like o, server-side.
func (c *Cluster) apply(ctx context.Context, o *unstructured.Unstructured) error {
	r, err := c.resource(o.GroupVersionKind(), o.GetNamespace())
	if err == nil {
		_, err = r.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	}
	if err != nil {
		return Explain(fmt.Errorf("apply %s: %w", refOf(o), err))
	}
	return nil
}

// get returns the cluster's object, or an error that IsNotFound recognizes.
func (c *Cluster) get(ctx context.Context, ref Ref) (*unstructured.Unstructured, error) {
	r, err := c.resource(ref.gvk(), ref.Namespace)
	if err != nil {
		return nil, err
	}
	return r.Get(ctx, ref.Name, metav1.GetOptions{})
}

// delete removes an object and, in the background, what it owns.
func (c *Cluster) delete(ctx context.Context, ref Ref) error {
	r, err := c.resource(ref.gvk(), ref.Namespace)
	if err != nil {
		return err
	}
	background := metav1.DeletePropagationBackground
	return r.Delete(ctx, ref.Name, metav1.DeleteOptions{PropagationPolicy: &background})
}

// namespace returns the namespace, nil if there is none.
func (c *Cluster) namespace(ctx context.Context, name string) (*corev1.Namespace, error) {
	ns, err := c.Kube.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, Explain(fmt.Errorf("get namespace %s: %w", name, err))
	}
	return ns, nil
}
