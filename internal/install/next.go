package install

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
)

// Error is a failure together with what the user can do about it.
type Error struct {
	Err  error
	Next string // an imperative sentence without a full stop
}

func (e *Error) Error() string { return e.Err.Error() + "\nnext: " + e.Next }

// Unwrap returns the failure itself.
func (e *Error) Unwrap() error { return e.Err }

// WithNext adds what to do next to err, unless it already says so.
func WithNext(err error, next string, args ...any) error {
	var has *Error
	if err == nil || errors.As(err, &has) {
		return err
	}
	return &Error{Err: err, Next: fmt.Sprintf(next, args...)}
}

// Explain adds what to do next to a failure of the Kubernetes API.
func Explain(err error) error {
	var (
		has     *Error
		urlErr  *url.Error
		netErr  *net.OpError
		noMatch *meta.NoKindMatchError
	)
	switch {
	case err == nil || errors.As(err, &has) || errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &noMatch):
		return WithNext(err, "install what provides %s, or leave it out by its value", noMatch.GroupKind)
	case apierrors.IsForbidden(err):
		return WithNext(err, "use a kubeconfig whose user may do this (cluster-admin may); `tulle check --pre` lists what is needed")
	case apierrors.IsUnauthorized(err):
		return WithNext(err, "log in to the cluster again: the API server doesn't accept the credentials of this kubeconfig")
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return WithNext(err, "if you changed values, look at the ones of this object; else report it with `tulle bugreport`")
	case errors.Is(err, context.DeadlineExceeded), apierrors.IsTimeout(err), apierrors.IsServerTimeout(err):
		return WithNext(fmt.Errorf("the API server didn't answer in time (%w)", err), "try `kubectl get --raw /readyz`, then again; --timeout gives it longer")
	case errors.As(err, &netErr), errors.As(err, &urlErr):
		return WithNext(err, "check that --kubeconfig and --context name a cluster that you can reach: `kubectl version`")
	}
	return WithNext(err, "try again; if it fails again, `tulle check` may know more")
}
