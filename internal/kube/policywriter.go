package kube

import (
	"context"
	"errors"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/tulle-mesh/tulle/internal/bypass"
	"github.com/tulle-mesh/tulle/internal/controller"
)

// PolicyWriter is a controller.PolicyWriter.
type PolicyWriter struct {
	Client kubernetes.Interface // with a rate of its own
}

// ApplyPolicies writes NetworkPolicies. Creations come first: a workload is closed before another is opened. Conflicts are
// no errors: somebody else was faster, and the next plan will know.
func (w *PolicyWriter) ApplyPolicies(ctx context.Context, c bypass.Changes) error {
	var errs []error
	failed := func(op string, p *networkingv1.NetworkPolicy, err error) {
		if err != nil && !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) && !apierrors.IsNotFound(err) && ctx.Err() == nil {
			errs = append(errs, &controller.PolicyError{Namespace: p.Namespace, Name: p.Name, Op: op, Err: err})
		}
	}
	for _, p := range c.Create {
		_, err := w.Client.NetworkingV1().NetworkPolicies(p.Namespace).Create(ctx, p, metav1.CreateOptions{})
		failed("create NetworkPolicy", p, err)
	}
	for _, p := range c.Update {
		_, err := w.Client.NetworkingV1().NetworkPolicies(p.Namespace).Update(ctx, p, metav1.UpdateOptions{})
		failed("update NetworkPolicy", p, err)
	}
	for _, p := range c.Delete {
		err := w.Client.NetworkingV1().NetworkPolicies(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}})
		failed("delete NetworkPolicy", p, err)
	}
	return errors.Join(errs...)
}
