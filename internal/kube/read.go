package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/tulle-mesh/tulle/internal/bypass"
	"github.com/tulle-mesh/tulle/internal/controller"
	"github.com/tulle-mesh/tulle/internal/problem"
)

// Reader reads once what config is made of, with the rights of whoever asks.
type Reader struct {
	Client  kubernetes.Interface
	Dynamic dynamic.Interface
	// Namespaces are read one by one where not all may be read.
	Namespaces []string
	// Policies says that NetworkPolicies and the owners of pods are read, too.
	Policies bool
}

// Read returns the objects, and what could not be read for want of rights: "pods in shop". Other failures are errors.
func (r *Reader) Read(ctx context.Context) (s controller.Snapshot, hidden []string, err error) {
	out := &s.Resources
	core := r.Client.CoreV1()
	all := metav1.ListOptions{}
	steps := []func() error{
		func() error {
			return read(r, &out.Services, &hidden, "services", keepService, func(ns string) ([]corev1.Service, error) {
				l, err := core.Services(ns).List(ctx, all)
				return l.Items, err
			})
		},
		func() error {
			return read(r, &out.EndpointSlices, &hidden, "endpointslices", keepSlice, func(ns string) ([]discoveryv1.EndpointSlice, error) {
				l, err := r.Client.DiscoveryV1().EndpointSlices(ns).List(ctx, all)
				return l.Items, err
			})
		},
		func() error {
			return read(r, &out.Pods, &hidden, "pods", keepPod, func(ns string) ([]corev1.Pod, error) {
				l, err := core.Pods(ns).List(ctx, all)
				return l.Items, err
			})
		},
		func() error {
			return read(r, &out.ServiceAccounts, &hidden, "serviceaccounts", keepServiceAccount, func(ns string) ([]corev1.ServiceAccount, error) {
				l, err := core.ServiceAccounts(ns).List(ctx, all)
				return l.Items, err
			})
		},
		func() error {
			return read(r, &out.Namespaces, &hidden, "namespaces", keepNamespace, func(ns string) ([]corev1.Namespace, error) {
				if ns != "" {
					n, err := core.Namespaces().Get(ctx, ns, metav1.GetOptions{})
					return []corev1.Namespace{*n}, err
				}
				l, err := core.Namespaces().List(ctx, all)
				return l.Items, err
			})
		},
		func() error {
			l, err := core.Nodes().List(ctx, all)
			if apierrors.IsForbidden(err) {
				hidden = append(hidden, "nodes")
				return nil
			}
			for i := range l.Items {
				n, _ := keepNode(&l.Items[i])
				out.Nodes = append(out.Nodes, n)
			}
			return err
		},
		func() error { return r.readSMI(ctx, &s, &hidden) },
	}
	if r.Policies {
		steps = append(steps, func() error { return r.readPolicies(ctx, &s, &hidden) })
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return s, hidden, err
		}
	}
	return s, hidden, nil
}

// readPolicies reads what calls past the mesh depend on.
func (r *Reader) readPolicies(ctx context.Context, s *controller.Snapshot, hidden *[]string) error {
	apps, all := r.Client.AppsV1(), metav1.ListOptions{}
	err := read(r, &s.Policies, hidden, "networkpolicies", keepPolicy, func(ns string) ([]networkingv1.NetworkPolicy, error) {
		l, err := r.Client.NetworkingV1().NetworkPolicies(ns).List(ctx, all)
		return l.Items, err
	})
	keep := func(obj any) (*bypass.Owner, bool) {
		o, ok := keepOwner(obj)
		return o.Owner, ok
	}
	return errors.Join(err,
		read(r, &s.Owners, hidden, "deployments", keep, func(ns string) ([]appsv1.Deployment, error) {
			l, err := apps.Deployments(ns).List(ctx, all)
			return l.Items, err
		}),
		read(r, &s.Owners, hidden, "statefulsets", keep, func(ns string) ([]appsv1.StatefulSet, error) {
			l, err := apps.StatefulSets(ns).List(ctx, all)
			return l.Items, err
		}),
		read(r, &s.Owners, hidden, "daemonsets", keep, func(ns string) ([]appsv1.DaemonSet, error) {
			l, err := apps.DaemonSets(ns).List(ctx, all)
			return l.Items, err
		}))
}

// read lists one kind: all of it, or namespace by namespace where all of it is not allowed.
func read[O, K any](r *Reader, into *[]K, hidden *[]string, kind string, keep func(any) (K, bool), list func(namespace string) ([]O, error)) error {
	take := func(items []O) {
		for i := range items {
			if k, ok := keep(&items[i]); ok {
				*into = append(*into, k)
			}
		}
	}
	items, err := list("")
	if err == nil {
		take(items)
		return nil
	}
	if !apierrors.IsForbidden(err) {
		return fmt.Errorf("list %s: %w", kind, err)
	}
	for _, ns := range r.Namespaces {
		items, err := list(ns)
		switch {
		case apierrors.IsForbidden(err):
			*hidden = append(*hidden, kind+" in "+ns)
		case apierrors.IsNotFound(err):
		case err != nil:
			return fmt.Errorf("list %s in %s: %w", kind, ns, err)
		default:
			take(items)
		}
	}
	return nil
}

// readSMI reads every SMI kind in the newest version that is served.
func (r *Reader) readSMI(ctx context.Context, s *controller.Snapshot, hidden *[]string) error {
	out := &s.Resources
	for _, k := range smiKinds() {
		var decodedAll []decoded
		for n := k.newest; n >= 1; n-- {
			resource := r.Dynamic.Resource(schema.GroupVersionResource{Group: k.group, Version: fmt.Sprintf("v1alpha%d", n), Resource: k.plural})
			served := true
			list := func(ns string) ([]decoded, error) {
				l, err := resource.Namespace(ns).List(ctx, metav1.ListOptions{})
				if apierrors.IsNotFound(err) {
					served = false
					return nil, nil
				}
				if err != nil {
					return nil, err
				}
				var items []decoded
				for i := range l.Items {
					d, _ := keepSMI(&l.Items[i])
					items = append(items, d)
				}
				return items, nil
			}
			same := func(o any) (decoded, bool) {
				d, ok := o.(*decoded)
				return *d, ok
			}
			if err := read(r, &decodedAll, hidden, k.plural, same, list); err != nil {
				return err
			}
			if served {
				break
			}
		}
		for _, d := range decodedAll {
			out.SMI.Add(d.object)
			out.Undecodable = append(out.Undecodable, d.problems...)
		}
	}
	out.SMI.Sort()
	slices.SortFunc(out.Undecodable, problem.Problem.Compare)
	return nil
}
