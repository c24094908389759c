package kube

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tulle-mesh/tulle/internal/controller"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/push"
)

func newTrust(t *testing.T, client *fake.Clientset, edit ...func(*TrustConfig)) *Trust {
	t.Helper()
	td, err := identity.ParseTrustDomain("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	c := TrustConfig{
		Client: client, Namespace: "tulle-system", Log: slog.New(slog.DiscardHandler),
		Authority: identity.NewAuthority(identity.AuthorityConfig{TrustDomain: td}),
	}
	for _, e := range edit {
		e(&c)
	}
	return NewTrust(c)
}

func ensure(t *testing.T, trust *Trust, want bool) {
	t.Helper()
	if changed, err := trust.Ensure(t.Context()); err != nil || changed != want {
		t.Fatalf("changed %v, %v", changed, err)
	}
}

// good says whether what one replica signs is trusted by the bundle of another.
func good(t *testing.T, by, with *Trust) bool {
	t.Helper()
	_, csr, err := identity.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := by.config.Authority.Sign(csr, "shop", "web", "n1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	b, err := identity.ParseBundle(with.Bundle().GetTrustDomain(), with.Bundle().GetRoots())
	if err != nil {
		t.Fatal(err)
	}
	_, err = identity.ParseAndVerify(chain, b, time.Now())
	return err == nil
}

func TestReplicasThatStartTogetherHaveOneRoot(t *testing.T) {
	client := fake.NewClientset()
	all := make([]*Trust, 4)
	var g sync.WaitGroup
	for i := range all {
		all[i] = newTrust(t, client)
		g.Go(func() {
			if _, err := all[i].Ensure(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	g.Wait()
	for i, a := range all {
		if !good(t, a, all[0]) || !good(t, all[0], a) || len(a.Bundle().GetRoots()) != 1 {
			t.Errorf("replica %d is by itself", i)
		}
	}
	client.ClearActions()
	ensure(t, all[0], false)
	for _, a := range client.Actions() {
		if a.GetVerb() != "get" {
			t.Errorf("nothing has changed, and there was a %s of %s", a.GetVerb(), a.GetResource().Resource)
		}
	}
}

func TestRootIsReplacedWithAnOverlap(t *testing.T) {
	client := fake.NewClientset()
	one, two := newTrust(t, client), newTrust(t, client)
	ensure(t, one, true)
	ensure(t, two, true)
	secrets := client.CoreV1().Secrets("tulle-system")
	s, err := secrets.Get(t.Context(), IdentitySecret, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.Annotations = map[string]string{RotateAnnotation: "please"}
	if _, err := secrets.Update(t.Context(), s, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	ensure(t, one, true)
	// Nobody signs by the new root yet, and everybody is about to trust it, also one that has just started.
	fresh := newTrust(t, client)
	ensure(t, fresh, true)
	for what, pair := range map[string][2]*Trust{"the one that rotated": {one, two}, "one that started": {fresh, two}, "one that is behind": {two, one}} {
		if !good(t, pair[0], pair[1]) {
			t.Errorf("%s signs what others don't know", what)
		}
	}
	ensure(t, two, true)
	if n := len(two.Bundle().GetRoots()); n != 2 {
		t.Errorf("%d roots", n)
	}
	ensure(t, one, false) // asked once, done once
}

func TestRootIsReplacedBeforeItEnds(t *testing.T) {
	client := fake.NewClientset()
	short := newTrust(t, client, func(c *TrustConfig) { c.RootLife = time.Hour })
	ensure(t, short, true)
	long := newTrust(t, client, func(c *TrustConfig) { c.RootLife = 4 * time.Hour }) // an hour is less than a third of that
	ensure(t, long, true)
	if n := len(long.Bundle().GetRoots()); n != 2 {
		t.Errorf("%d roots", n)
	}
	ensure(t, long, false)
}

// Somebody deletes what the controllers wrote down: what was trusted stays so, as long as one of them remembers.
func TestTrustSurvivesDeletion(t *testing.T) {
	client := fake.NewClientset()
	one := newTrust(t, client)
	ensure(t, one, true)
	old := one.Bundle()
	for _, err := range []error{
		client.CoreV1().Secrets("tulle-system").Delete(t.Context(), IdentitySecret, metav1.DeleteOptions{}),
		client.CoreV1().ConfigMaps("tulle-system").Delete(t.Context(), TrustConfigMap, metav1.DeleteOptions{}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	ensure(t, one, true)
	if roots := one.Bundle().GetRoots(); len(roots) != 2 || string(roots[0]) != string(old.GetRoots()[0]) {
		t.Errorf("%d roots", len(roots))
	}
	if !good(t, one, one) {
		t.Error("nothing can be signed")
	}
	m, err := client.CoreV1().ConfigMaps("tulle-system").Get(t.Context(), TrustConfigMap, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m.Data[rootRecordKey] = "not json"
	if _, err := client.CoreV1().ConfigMaps("tulle-system").Update(t.Context(), m, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	ensure(t, one, false)
}

// A CA of somebody else's is used, and not touched.
func TestForeignCA(t *testing.T) {
	client := fake.NewClientset()
	trust := newTrust(t, client, func(c *TrustConfig) { c.Secret = "corp-ca" })
	if _, err := trust.Ensure(t.Context()); err == nil {
		t.Error("a CA that isn't there was found")
	}
	put := func(create bool) {
		root, err := identity.NewRoot(trust.config.Authority.Config().TrustDomain, time.Now(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		cert, key, roots, err := root.PEM()
		if err != nil {
			t.Fatal(err)
		}
		s := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "tulle-system", Name: "corp-ca", Annotations: map[string]string{RotateAnnotation: "no"}},
			Data:       map[string][]byte{"tls.crt": cert, "tls.key": key, "ca.crt": roots},
		}
		secrets := client.CoreV1().Secrets("tulle-system")
		if create {
			_, err = secrets.Create(t.Context(), s, metav1.CreateOptions{})
		} else {
			_, err = secrets.Update(t.Context(), s, metav1.UpdateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	put(true)
	ensure(t, trust, true)
	if !good(t, trust, trust) {
		t.Error("not signed by it")
	}
	put(false) // its owner renews it
	ensure(t, trust, true)
	if n := len(trust.Bundle().GetRoots()); n != 2 || !good(t, trust, trust) {
		t.Errorf("%d roots", n)
	}
	written := 0
	for _, a := range client.Actions() {
		if a.GetResource().Resource == "secrets" && a.GetVerb() != "get" {
			written++
		}
	}
	if written != 2 { // its owner's own
		t.Errorf("it was written %d times", written)
	}
}

func TestIdentitiesAreThoseOfTheNode(t *testing.T) {
	at := func(name, node, ip string) *corev1.Pod {
		p := namedPod("shop", name)
		p.Spec.NodeName, p.Spec.ServiceAccountName, p.Status.PodIP = node, name, ip
		return p
	}
	host, ended := at("host", "n1", "10.0.0.9"), at("job", "n1", "10.0.0.8")
	host.Spec.HostNetwork, ended.Status.Phase = true, corev1.PodSucceeded
	c := newCluster(t, proxyPod("p1", "n1", "10.0.0.1"), proxyPod("p2", "n2", "10.0.0.2"), host, ended,
		at("web", "n1", "10.0.0.7"), at("admin", "n2", "10.0.0.6"))
	c.start()
	t.Run("by all that there is", func(t *testing.T) { identitiesOfTheNode(t, c, c.source) })
	if _, err := c.kube.CoreV1().Pods("shop").Create(t.Context(), at("web", "n1", "10.0.0.7"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Run("by pods alone", func(t *testing.T) { identitiesOfTheNode(t, c, startPods(t, c.kube)) })
}

// startPods runs a PodSource until it knows all pods.
func startPods(t *testing.T, client kubernetes.Interface) *PodSource {
	t.Helper()
	s := NewPodSource(client, "tulle-system")
	if s.Waiting() == nil {
		t.Error("nothing was read, and nothing is waited for")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	until(t, "the pods are known", func() bool { return s.Waiting() == nil })
	return s
}

// until waits until something holds.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for tick := time.NewTicker(5 * time.Millisecond); !ok(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

func identitiesOfTheNode(t *testing.T, c *cluster, pods Pods) {
	trust := newTrust(t, fake.NewClientset())
	ensure(t, trust, true)
	ids := &Identities{Pods: pods, Authority: trust.config.Authority}
	peer := push.Peer{Namespace: "tulle-system", Pod: "p1", UID: "u", Node: "n1"}
	_, csr, err := identity.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		what, namespace, account string
		peer                     push.Peer
		csr                      []byte
		ok, denied               bool
	}{
		{what: "runs here", namespace: "shop", account: "web", ok: true},
		{what: "runs on another node", namespace: "shop", account: "admin", denied: true},
		{what: "runs nowhere", namespace: "shop", account: "nobody", denied: true},
		{what: "same name, another namespace", namespace: "tulle-system", account: "web", denied: true},
		{what: "on the host's network", namespace: "shop", account: "host", denied: true},
		{what: "has ended", namespace: "shop", account: "job", denied: true},
		{what: "a slash", namespace: "shop/web", account: "", denied: true},
		{what: "a proxy that was replaced", namespace: "shop", account: "web", peer: push.Peer{Namespace: "tulle-system", Pod: "p1", UID: "old", Node: "n1"}},
		{what: "a proxy on another node than it says", namespace: "shop", account: "admin", peer: push.Peer{Namespace: "tulle-system", Pod: "p1", UID: "u", Node: "n2"}},
		{what: "no request", namespace: "shop", account: "web", csr: []byte("x"), denied: true},
	} {
		if tc.peer.Pod == "" {
			tc.peer = peer
		}
		if tc.csr == nil {
			tc.csr = csr
		}
		chain, err := ids.Sign(t.Context(), tc.peer, tc.namespace, tc.account, tc.csr)
		if (err == nil) != tc.ok || errors.Is(err, push.ErrDenied) != tc.denied || (chain == nil) == tc.ok {
			t.Errorf("%s: %v", tc.what, err)
		}
	}
	// The pod leaves, and its identity with it.
	if err := c.kube.CoreV1().Pods("shop").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "the identity is gone", func() bool {
		_, err := ids.Sign(t.Context(), peer, "shop", "web", csr)
		return errors.Is(err, push.ErrDenied)
	})
}

// The controllers know whom to trust by what the CA wrote down alone, and go on with it when that is lost.
func TestWhatTheCAWroteReachesTheControllers(t *testing.T) {
	c := newCluster(t)
	config := c.source.config
	config.Trust = true
	c.source = NewSource(config)
	c.start()
	if b := c.source.Trust().Bundle("cluster.local"); b != nil {
		t.Errorf("before there is a CA: %v", b)
	}
	trust := newTrust(t, c.kube)
	ensure(t, trust, true)
	c.eventually("the bundle", func(controller.Snapshot) bool {
		return proto.Equal(c.source.Trust().Bundle("cluster.local"), trust.Bundle())
	})
	if left := time.Until(c.source.Trust().Ends); left < 364*24*time.Hour || left > 366*24*time.Hour {
		t.Errorf("the CA ends in %v", left)
	}
	for _, a := range c.kube.Actions() {
		if a.GetResource().Resource == "configmaps" && a.GetVerb() == "watch" {
			watch, _ := a.(clienttesting.WatchAction)
			if _, one := watch.GetWatchRestrictions().Fields.RequiresExactMatch("metadata.name"); !one {
				t.Error("all ConfigMaps are watched")
			}
		}
	}
	maps := c.kube.CoreV1().ConfigMaps("tulle-system")
	m, err := maps.Get(t.Context(), TrustConfigMap, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m.Data[rootRecordKey] = "{"
	if _, err := maps.Update(t.Context(), m, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := maps.Delete(t.Context(), TrustConfigMap, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	old := trust.Bundle()
	if err := c.kube.CoreV1().Secrets("tulle-system").Delete(t.Context(), IdentitySecret, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(c.source.Trust().Bundle("cluster.local"), old) {
		t.Error("the bundle is gone with its record")
	}
	ensure(t, trust, true)
	c.eventually("the next bundle", func(controller.Snapshot) bool { return len(c.source.Trust().Roots) == 2 })
}

// A version that kept the CA in the controllers wrote the record without the CA's end.
func TestRecordOfAnOlderVersion(t *testing.T) {
	client := fake.NewClientset()
	ensure(t, newTrust(t, client), true)
	maps := client.CoreV1().ConfigMaps("tulle-system")
	m, err := maps.Get(t.Context(), TrustConfigMap, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	end := m.Data[endsKey]
	delete(m.Data, endsKey)
	old, err := readTrust(m)
	if err != nil || len(old.Roots) != 1 || !old.Ends.IsZero() {
		t.Errorf("read as %+v, %v", old, err)
	}
	if _, err := maps.Update(t.Context(), m, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	next := newTrust(t, client)
	ensure(t, next, true)
	if len(next.Bundle().GetRoots()) != 1 || string(next.Bundle().GetRoots()[0]) != string(old.Roots[0]) {
		t.Error("the root is another one")
	}
	if m, err = maps.Get(t.Context(), TrustConfigMap, metav1.GetOptions{}); err != nil || m.Data[endsKey] != end || end == "" {
		t.Errorf("the end is %q, was %q: %v", m.Data[endsKey], end, err)
	}
}
