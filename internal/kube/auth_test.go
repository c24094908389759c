package kube

import (
	"context"
	"errors"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tulle-mesh/tulle/internal/controller"
	"github.com/tulle-mesh/tulle/internal/push"
)

// review makes the API server answer every TokenReview with what change makes of a good answer.
func (c *cluster) review(change func(*authenticationv1.TokenReviewStatus)) *Authenticator {
	c.kube.PrependReactor("create", "tokenreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		create, _ := a.(clienttesting.CreateAction)
		r, _ := create.GetObject().(*authenticationv1.TokenReview)
		if r.Spec.Token != "token" || len(r.Spec.Audiences) != 1 || r.Spec.Audiences[0] != "tulle" {
			c.Errorf("asked about %+v", r.Spec)
		}
		r = r.DeepCopy()
		r.Status = authenticationv1.TokenReviewStatus{
			Authenticated: true, Audiences: []string{"tulle"},
			User: authenticationv1.UserInfo{Username: "system:serviceaccount:tulle-system:tulle-proxy", Extra: map[string]authenticationv1.ExtraValue{
				podNameExtra: {"p1"}, podUIDExtra: {"u"}, nodeNameExtra: {"n1"},
			}},
		}
		if change != nil {
			change(&r.Status)
		}
		return true, r, nil
	})
	return &Authenticator{Client: c.kube, Namespace: "tulle-system", Audience: Audience, Pods: c.source}
}

func TestAuthenticate(t *testing.T) {
	type status = authenticationv1.TokenReviewStatus
	set := func(key string, value ...string) func(*status) {
		return func(s *status) { s.User.Extra[key] = value }
	}
	tests := []struct {
		name   string
		change func(*status)
		pod    func(*corev1.Pod)
		ok     bool
	}{
		{name: "good", ok: true},
		{name: "good, of an older API server that names no node", change: set(nodeNameExtra), ok: true},
		{name: "good, of a pod that is about to end", pod: func(p *corev1.Pod) { now := metav1.Now(); p.DeletionTimestamp, p.Finalizers = &now, []string{"a/b"} }, ok: true},
		{name: "not valid", change: func(s *status) { s.Authenticated = false; s.Error = "expired" }},
		{name: "another audience", change: func(s *status) { s.Audiences = []string{"https://kubernetes.default.svc"} }},
		{name: "no audience", change: func(s *status) { s.Audiences = nil }},
		{name: "another account", change: func(s *status) { s.User.Username = "system:serviceaccount:tulle-system:default" }},
		{name: "another namespace", change: func(s *status) { s.User.Username = "system:serviceaccount:shop:tulle-proxy" }},
		{name: "a user", change: func(s *status) { s.User.Username = "admin" }},
		{name: "not bound to a pod", change: set(podNameExtra)},
		{name: "two pods", change: set(podNameExtra, "p1", "p2")},
		{name: "no UID", change: set(podUIDExtra)},
		{name: "a pod that was replaced", change: set(podUIDExtra, "old")},
		{name: "a pod that does not exist", change: set(podNameExtra, "p9")},
		{name: "another node", change: set(nodeNameExtra, "n2")},
		{name: "a pod that has ended", pod: func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }},
		{name: "a pod of another account", pod: func(p *corev1.Pod) { p.Spec.ServiceAccountName = "default" }},
		{name: "a pod on no node", pod: func(p *corev1.Pod) { p.Spec.NodeName = "" }, change: set(nodeNameExtra)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pod := proxyPod("p1", "n1", "10.0.0.1")
			if tt.pod != nil {
				tt.pod(pod)
			}
			c := newCluster(t, pod)
			a := c.review(tt.change)
			c.start()
			peer, err := a.Authenticate(t.Context(), "token")
			if tt.ok && (err != nil || peer != push.Peer{Namespace: "tulle-system", Pod: "p1", UID: "u", Node: "n1"}) {
				t.Errorf("got %+v, %v", peer, err)
			}
			if !tt.ok && !errors.Is(err, push.ErrDenied) {
				t.Errorf("got %+v, %v", peer, err)
			}
		})
	}
}

// A token for the controllers is worth nothing where identities are certified, and the other way round.
func TestTokensAreForOneOfTheTwo(t *testing.T) {
	for _, asked := range []string{Audience, IdentityAudience} {
		for _, of := range []string{Audience, IdentityAudience} {
			c := newCluster(t, proxyPod("p1", "n1", "10.0.0.1"))
			// What an API server says of a token that is for somebody else than who asks.
			c.kube.PrependReactor("create", "tokenreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
				create, _ := a.(clienttesting.CreateAction)
				r, _ := create.GetObject().(*authenticationv1.TokenReview)
				r = r.DeepCopy()
				if len(r.Spec.Audiences) != 1 || r.Spec.Audiences[0] != of {
					r.Status.Error = "invalid audience"
					return true, r, nil
				}
				r.Status = authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{of}, User: authenticationv1.UserInfo{
					Username: "system:serviceaccount:tulle-system:tulle-proxy",
					Extra:    map[string]authenticationv1.ExtraValue{podNameExtra: {"p1"}, podUIDExtra: {"u"}},
				}}
				return true, r, nil
			})
			a := &Authenticator{Client: c.kube, Namespace: "tulle-system", Audience: asked, Pods: c.source}
			if _, err := a.Authenticate(t.Context(), "token"); (err == nil) != (asked == of) || err != nil && !errors.Is(err, push.ErrDenied) {
				t.Errorf("a token for %s, asked for %s: %v", of, asked, err)
			}
		}
	}
}

func TestAPodThatTheWatchDoesNotKnowYetIsAskedFor(t *testing.T) {
	c := newCluster(t, proxyPod("p1", "n1", "10.0.0.1"))
	a := c.review(nil)
	// The Source is not running: its caches are empty.
	if peer, err := a.Authenticate(t.Context(), "token"); err != nil || peer.Node != "n1" {
		t.Errorf("got %+v, %v", peer, err)
	}
}

func TestAnAPIServerThatFailsDeniesNobody(t *testing.T) {
	c := newCluster(t)
	a := &Authenticator{Client: c.kube, Namespace: "tulle-system", Audience: Audience, Pods: c.source}
	c.kube.PrependReactor("create", "tokenreviews", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewServiceUnavailable("later")
	})
	if _, err := a.Authenticate(t.Context(), "token"); err == nil || errors.Is(err, push.ErrDenied) {
		t.Errorf("got %v", err)
	}
}

func TestGone(t *testing.T) {
	peer := push.Peer{Namespace: "tulle-system", Pod: "p1", UID: "u", Node: "n1"}
	tests := map[string]func(t *testing.T, c *cluster){
		"deleted": func(t *testing.T, c *cluster) {
			if err := c.kube.CoreV1().Pods("tulle-system").Delete(t.Context(), "p1", metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		},
		"ended": func(t *testing.T, c *cluster) {
			p := proxyPod("p1", "n1", "10.0.0.1")
			p.Status.Phase = corev1.PodFailed
			if _, err := c.kube.CoreV1().Pods("tulle-system").UpdateStatus(t.Context(), p, metav1.UpdateOptions{}); err != nil {
				t.Error(err)
			}
		},
		"replaced": func(t *testing.T, c *cluster) {
			p := proxyPod("p1", "n1", "10.0.0.1")
			p.UID = "new"
			if _, err := c.kube.CoreV1().Pods("tulle-system").Update(t.Context(), p, metav1.UpdateOptions{}); err != nil {
				t.Error(err)
			}
		},
	}
	for name, end := range tests {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, proxyPod("p1", "n1", "10.0.0.1"), proxyPod("p2", "n1", "10.0.0.2"))
			c.start()
			a := &Authenticator{Client: c.kube, Namespace: "tulle-system", Audience: Audience, Pods: c.source}
			gone := a.Gone(t.Context(), peer)
			if err := c.kube.CoreV1().Pods("tulle-system").Delete(t.Context(), "p2", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			c.eventually("p2 is gone", func(s controller.Snapshot) bool { return len(s.Proxies) == 1 })
			select {
			case <-gone:
				t.Fatal("another pod's end counts")
			default:
			}
			end(t, c)
			select {
			case <-gone:
			case <-time.After(20 * time.Second):
				t.Fatal("never gone")
			}
			// Whoever asks now is told at once.
			select {
			case <-a.Gone(t.Context(), peer):
			case <-time.After(20 * time.Second):
				t.Fatal("not gone for a second one")
			}
		})
	}
}

func TestGoneEndsWithItsContext(t *testing.T) {
	c := newCluster(t, proxyPod("p1", "n1", "10.0.0.1"))
	c.start()
	a := &Authenticator{Client: c.kube, Namespace: "tulle-system", Audience: Audience, Pods: c.source}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if a.waitGone(ctx, push.Peer{Namespace: "tulle-system", Pod: "p1", UID: "u"}) {
		t.Error("gone, with the interest in it")
	}
}
