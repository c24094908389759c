package kube

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/tulle-mesh/tulle/internal/identity"
)

// TraefikSecret holds the key with which stock Traefik's pods ask the controllers for their configuration, and its
// certificate.
const TraefikSecret = "tulle-traefik-tls"

// traefikLife is long because Traefik reads the files of its HTTP provider once, when it starts.
const traefikLife = 10 * 365 * 24 * time.Hour

// EnsureTraefikClient returns the certificate that the controllers know Traefik's pods by, and sees to it that there is
// one. It is by no CA: the certificate itself is what is trusted, for this and nothing else. Whoever deletes the Secret
// gets a new one, which pods use once they are restarted.
func EnsureTraefikClient(ctx context.Context, client kubernetes.Interface, namespace string) (certPEM []byte, err error) {
	secrets := client.CoreV1().Secrets(namespace)
	s, err := secrets.Get(ctx, TraefikSecret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		cert, key, makeErr := identity.SelfSignedClient("tulle-traefik."+namespace, traefikLife, time.Now())
		if makeErr != nil {
			return nil, makeErr
		}
		err = makeSecret(ctx, client, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: TraefikSecret, Labels: ourLabels()},
			Type:       corev1.SecretTypeTLS,
			Data:       map[string][]byte{corev1.TLSCertKey: cert, corev1.TLSPrivateKeyKey: key},
		})
		if err == nil {
			s, err = secrets.Get(ctx, TraefikSecret, metav1.GetOptions{})
		}
	}
	if err != nil {
		return nil, fmt.Errorf("keep Traefik's certificate in Secret %s: %w", TraefikSecret, err)
	}
	return s.Data[corev1.TLSCertKey], nil
}
