package kube

import (
	"context"
	"errors"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/tulle-mesh/tulle/internal/push"
)

const (
	// ProxyAccount is the ServiceAccount of the proxies, in the mesh's namespace.
	ProxyAccount = "tulle-proxy"
	// IdentityAccount is the ServiceAccount of who certifies identities.
	IdentityAccount = "tulle-identity"
	// Audience is whom proxies' tokens are for: the controllers.
	Audience = "tulle"
	// IdentityAudience is that of the tokens by which proxies ask for certificates. Each of the two sees no token that the
	// other would take.
	IdentityAudience = "tulle-identity"

	// The extras of a token that is bound to a pod.
	podNameExtra  = "authentication.kubernetes.io/pod-name"
	podUIDExtra   = "authentication.kubernetes.io/pod-uid"
	nodeNameExtra = "authentication.kubernetes.io/node-name"

	// appearance is how long the watch may be behind with a pod that the API server knows.
	appearance = 30 * time.Second
)

// Authenticator is a push.Authenticator. All fields are required.
type Authenticator struct {
	Client    kubernetes.Interface
	Namespace string // the mesh's
	Audience  string // of tokens
	Pods      Pods
}

// Authenticate asks the API server about the token, and takes it only from a pod that runs as the proxies'
// ServiceAccount and exists. Whatever names the peer comes from the token and the pod, nothing from the peer.
func (a *Authenticator) Authenticate(ctx context.Context, token string) (push.Peer, error) {
	review, err := a.Client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{a.Audience}},
	}, metav1.CreateOptions{})
	if err != nil {
		return push.Peer{}, fmt.Errorf("review token: %w", err)
	}
	status := review.Status
	want := "system:serviceaccount:" + a.Namespace + ":" + ProxyAccount
	switch {
	case !status.Authenticated:
		return push.Peer{}, denied("the token is not valid: %s", status.Error)
	// An API server that knows no audiences lists none: it judged the token for itself.
	case len(status.Audiences) != 1 || status.Audiences[0] != a.Audience:
		return push.Peer{}, denied("the token is for %q", status.Audiences)
	case status.User.Username != want:
		return push.Peer{}, denied("the token is of %s", status.User.Username)
	}
	name, uid := extra(status, podNameExtra), extra(status, podUIDExtra)
	if name == "" || uid == "" {
		return push.Peer{}, denied("the token is not bound to a pod")
	}
	pod, err := a.pod(ctx, name, uid)
	if err != nil {
		return push.Peer{}, err
	}
	node := extra(status, nodeNameExtra)
	switch {
	case podEnded(pod):
		return push.Peer{}, denied("pod %s has ended", name)
	case pod.Spec.ServiceAccountName != ProxyAccount:
		return push.Peer{}, denied("pod %s runs as %s", name, pod.Spec.ServiceAccountName)
	case pod.Spec.NodeName == "":
		return push.Peer{}, denied("pod %s is on no node", name)
	case node != "" && node != pod.Spec.NodeName:
		return push.Peer{}, denied("the token is of node %s and pod %s is on node %s", node, name, pod.Spec.NodeName)
	}
	return push.Peer{Namespace: a.Namespace, Pod: name, UID: uid, Node: pod.Spec.NodeName}, nil
}

func denied(format string, args ...any) error {
	return fmt.Errorf("%w: %s", push.ErrDenied, fmt.Sprintf(format, args...))
}

// extra returns the one value of a key that the API server put there; "" if there is none, or several.
func extra(s authenticationv1.TokenReviewStatus, key string) string {
	if v := s.User.Extra[key]; len(v) == 1 {
		return v[0]
	}
	return ""
}

// pod returns the pod of a token: from the watch, or, as that may be a moment behind, from the API server.
func (a *Authenticator) pod(ctx context.Context, name, uid string) (*corev1.Pod, error) {
	pods, _ := a.Pods.podLists()
	if p, ok := pods.mesh.get(a.Namespace, name); ok && string(p.UID) == uid {
		return p, nil
	}
	p, err := a.Client.CoreV1().Pods(a.Namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, denied("pod %s does not exist", name)
	case err != nil:
		return nil, fmt.Errorf("get Pod %s: %w", name, err)
	case string(p.UID) != uid:
		return nil, denied("pod %s is another one by now", name)
	}
	return p, nil
}

// Gone returns a channel that is closed when the peer's pod is deleted or has ended. It starts a goroutine, which ends
// with ctx.
func (a *Authenticator) Gone(ctx context.Context, peer push.Peer) <-chan struct{} {
	gone := make(chan struct{})
	go func() {
		if a.waitGone(ctx, peer) {
			close(gone)
		}
	}()
	return gone
}

// waitGone returns false if ctx ended first.
func (a *Authenticator) waitGone(ctx context.Context, peer push.Peer) bool {
	all, _ := a.Pods.podLists()
	pods := all.mesh
	late := time.NewTimer(appearance)
	defer late.Stop()
	for asked, seen := false, false; ; {
		next := pods.next()
		p, ok := pods.get(peer.Namespace, peer.Pod)
		is := ok && string(p.UID) == peer.UID
		if is && podEnded(p) || seen && !is {
			return true
		}
		seen = seen || is
		if !seen && !asked {
			// Either the watch is behind, or it is ahead.
			asked = true
			if _, err := a.pod(ctx, peer.Pod, peer.UID); errors.Is(err, push.ErrDenied) {
				return true
			}
		}
		select {
		case <-ctx.Done():
			return false
		case <-next:
		case <-late.C:
			if !seen {
				return true
			}
		}
	}
}
