package kube

import (
	"bytes"
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/tulle-mesh/tulle/internal/identity"
)

// Where the CA of the controllers is kept, in the mesh's namespace.
const (
	CASecret    = "tulle-controller-tls"
	CAConfigMap = "tulle-ca"
	CAKey       = "ca.crt" // in the ConfigMap
)

// EnsureCA returns the CA that the proxies know the controllers by, and sees to it that its certificate is where they
// look for it. The first replica that comes makes it; an existing one is never replaced. Whoever deletes the Secret gets
// a new CA: proxies read the certificate again whenever they connect.
func EnsureCA(ctx context.Context, client kubernetes.Interface, namespace string) (*identity.CA, error) {
	ca, err := loadCA(ctx, client, namespace)
	if apierrors.IsNotFound(err) {
		if err = makeCA(ctx, client, namespace); err == nil {
			ca, err = loadCA(ctx, client, namespace)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("keep the CA in Secret %s: %w", CASecret, err)
	}
	if err := publishCA(ctx, client, namespace, ca.CertPEM()); err != nil {
		return nil, fmt.Errorf("publish the certificate in ConfigMap %s: %w", CAConfigMap, err)
	}
	return ca, nil
}

func loadCA(ctx context.Context, client kubernetes.Interface, namespace string) (*identity.CA, error) {
	s, err := client.CoreV1().Secrets(namespace).Get(ctx, CASecret, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return identity.ParseCA(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey])
}

// makeCA writes a new CA, unless another replica is faster.
func makeCA(ctx context.Context, client kubernetes.Interface, namespace string) error {
	ca, err := identity.NewCA("tulle-controller."+namespace, time.Now())
	if err != nil {
		return err
	}
	key, err := ca.KeyPEM()
	if err != nil {
		return err
	}
	return makeSecret(ctx, client, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: CASecret, Labels: ourLabels()},
		Type:       corev1.SecretTypeTLS,
		Data:       map[string][]byte{corev1.TLSCertKey: ca.CertPEM(), corev1.TLSPrivateKeyKey: key},
	})
}

// publishCA writes the certificate to where proxies read it. One that is not the Secret's belongs to a CA that is lost.
func publishCA(ctx context.Context, client kubernetes.Interface, namespace string, cert []byte) error {
	maps := client.CoreV1().ConfigMaps(namespace)
	m, err := maps.Get(ctx, CAConfigMap, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		err = makeConfigMap(ctx, client, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: CAConfigMap, Labels: ourLabels()},
			Data:       map[string]string{CAKey: string(cert)},
		})
		if err != nil {
			return err
		}
		m, err = maps.Get(ctx, CAConfigMap, metav1.GetOptions{}) // it may be another replica's
	}
	if err != nil || bytes.Equal(bytes.TrimSpace([]byte(m.Data[CAKey])), bytes.TrimSpace(cert)) {
		return err
	}
	m = m.DeepCopy()
	m.Data = map[string]string{CAKey: string(cert)}
	_, err = maps.Update(ctx, m, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) {
		return publishCA(ctx, client, namespace, cert)
	}
	return err
}
