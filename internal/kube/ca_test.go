package kube

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func published(t *testing.T, client *fake.Clientset) string {
	t.Helper()
	m, err := client.CoreV1().ConfigMaps("tulle-system").Get(t.Context(), CAConfigMap, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m.Data[CAKey]
}

func TestReplicasThatStartTogetherHaveOneCA(t *testing.T) {
	client := fake.NewClientset()
	certs := make([][]byte, 4)
	var g sync.WaitGroup
	for i := range certs {
		g.Go(func() {
			ca, err := EnsureCA(t.Context(), client, "tulle-system")
			if err != nil {
				t.Error(err)
				return
			}
			certs[i] = ca.CertPEM()
		})
	}
	g.Wait()
	for _, c := range certs {
		if !bytes.Equal(c, certs[0]) || published(t, client) != string(c) {
			t.Fatal("replicas have different CAs")
		}
	}
	// A restart changes nothing.
	client.ClearActions()
	if _, err := EnsureCA(t.Context(), client, "tulle-system"); err != nil {
		t.Fatal(err)
	}
	for _, a := range client.Actions() {
		if a.GetVerb() != "get" {
			t.Errorf("%s %s", a.GetVerb(), a.GetResource().Resource)
		}
	}
}

func TestLostPartsOfTheCAComeBack(t *testing.T) {
	client := fake.NewClientset()
	ca, err := EnsureCA(t.Context(), client, "tulle-system")
	if err != nil {
		t.Fatal(err)
	}
	if err := client.CoreV1().ConfigMaps("tulle-system").Delete(t.Context(), CAConfigMap, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	again, err := EnsureCA(t.Context(), client, "tulle-system")
	if err != nil || !bytes.Equal(again.CertPEM(), ca.CertPEM()) || published(t, client) != string(ca.CertPEM()) {
		t.Errorf("the certificate is not back: %v", err)
	}
	if err := client.CoreV1().Secrets("tulle-system").Delete(t.Context(), CASecret, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	other, err := EnsureCA(t.Context(), client, "tulle-system")
	if err != nil || bytes.Equal(other.CertPEM(), ca.CertPEM()) || published(t, client) != string(other.CertPEM()) {
		t.Errorf("no new CA: %v", err)
	}
}

func TestABrokenCAIsNotReplaced(t *testing.T) {
	client := fake.NewClientset(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "tulle-system", Name: CASecret}, Data: map[string][]byte{"tls.crt": []byte("x")}})
	if _, err := EnsureCA(t.Context(), client, "tulle-system"); err == nil {
		t.Error("no error")
	}
	client = fake.NewClientset()
	client.PrependReactor("get", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(corev1.Resource("secrets"), CASecret, errors.New("no rights"))
	})
	if _, err := EnsureCA(t.Context(), client, "tulle-system"); !apierrors.IsForbidden(err) {
		t.Errorf("got %v", err)
	}
}
