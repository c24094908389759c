package kube

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/identity"
)

// Where the CA of the mesh's identities is kept, in the mesh's namespace, and which roots are trusted.
const (
	IdentitySecret = "tulle-identity-ca"
	TrustConfigMap = "tulle-trust"

	rootRecordKey = "record.json"
	rootsKey      = "ca.crt"  // of the Secret, as cert-manager writes it, and of the ConfigMap, where proxies read it
	endsKey       = "ca-ends" // of the ConfigMap: when the CA in the Secret ends

	// The CA before the one in use, in a Secret of ours: replicas that start go on with it until the new root has spread.
	previousCert, previousKey, previousRoots = "previous.crt", "previous.key", "previous-ca.crt"

	// RotateAnnotation on the Secret asks for a new root.
	RotateAnnotation = "tulle.dev/rotate"
)

// TrustConfig is what a Trust needs. Client, Namespace, Authority and Log are required.
type TrustConfig struct {
	Client    kubernetes.Interface
	Namespace string
	// Secret is a CA that somebody else keeps: tls.crt, tls.key and ca.crt, as cert-manager writes them. It is never
	// changed. Default: one of our own, made by the first replica and replaced before it ends.
	Secret    string
	RootLife  time.Duration // of our own; default a year
	Authority *identity.Authority
	Log       *slog.Logger
}

// Trust keeps the Authority in step with the CA's Secret, and the record of trusted roots in step with both. Every
// replica runs one; they agree by the record, which only changes from the version that was read.
type Trust struct {
	config TrustConfig
	own    bool

	mu     sync.Mutex
	record identity.Record // what this replica knows, should somebody delete the ConfigMap
	bundle *configv1.TrustBundle
}

// NewTrust returns a Trust.
func NewTrust(c TrustConfig) *Trust {
	own := c.Secret == ""
	c.Secret, c.RootLife = cmp.Or(c.Secret, IdentitySecret), cmp.Or(c.RootLife, 365*24*time.Hour)
	return &Trust{config: c, own: own}
}

// Bundle is what is trusted; nil before the first Ensure that succeeded.
func (t *Trust) Bundle() *configv1.TrustBundle {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.bundle
}

// Ensure looks at the CA, makes or replaces it if that is ours to do, and says whether the bundle has changed. It is
// called now and then, by one goroutine.
func (t *Trust) Ensure(ctx context.Context) (changed bool, err error) {
	now := time.Now()
	secret, err := t.secret(ctx, now)
	if err != nil {
		return false, fmt.Errorf("keep the identities' CA in Secret %s: %w", t.config.Secret, err)
	}
	issuer, err := identity.ParseIssuer(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey], secret.Data[rootsKey])
	if err != nil {
		return false, fmt.Errorf("read the identities' CA from Secret %s: %w", t.config.Secret, err)
	}
	issuers := []*identity.Issuer{issuer}
	if len(secret.Data[previousCert]) > 0 && t.own {
		before, err := identity.ParseIssuer(secret.Data[previousCert], secret.Data[previousKey], secret.Data[previousRoots])
		if err != nil {
			t.config.Log.Warn("the CA before is not used", "name", t.config.Secret, "err", err)
		} else {
			issuers = append(issuers, before)
		}
	}
	record, err := t.keep(ctx, issuer, now)
	if err != nil {
		return false, fmt.Errorf("keep trusted roots in ConfigMap %s: %w", TrustConfigMap, err)
	}
	t.config.Authority.Update(record, issuers...)
	return t.publish(record), nil
}

func (t *Trust) publish(record identity.Record) (changed bool) {
	b := t.config.Authority.Bundle()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.record = record
	if b == nil {
		return false
	}
	next := &configv1.TrustBundle{TrustDomain: b.TrustDomain().Name(), Roots: b.DER()}
	if t.bundle != nil && bytes.Equal(bytes.Join(next.GetRoots(), nil), bytes.Join(t.bundle.GetRoots(), nil)) {
		return false
	}
	t.bundle = next
	t.config.Log.Info("trust bundle changed", "domain", next.GetTrustDomain(), "roots", len(next.GetRoots()))
	return true
}

// secret returns the CA's Secret. One of ours is made if there is none, and replaced when a third of its life is left.
func (t *Trust) secret(ctx context.Context, now time.Time) (*corev1.Secret, error) {
	secrets := t.config.Client.CoreV1().Secrets(t.config.Namespace)
	s, err := secrets.Get(ctx, t.config.Secret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && t.own {
		if s, err = t.fresh(nil, now); err != nil {
			return nil, err
		}
		if err = makeSecret(ctx, t.config.Client, s); err != nil {
			return nil, err
		}
		return secrets.Get(ctx, t.config.Secret, metav1.GetOptions{})
	}
	if err != nil || !t.own || !t.outworn(s, now) {
		return s, err
	}
	next, err := t.fresh(s, now)
	if err != nil {
		return nil, err
	}
	switch _, err = secrets.Update(ctx, next, metav1.UpdateOptions{}); {
	case err == nil:
		t.config.Log.Info("made a new root for identities", "name", t.config.Secret)
	case !apierrors.IsConflict(err):
		return nil, err
	}
	return secrets.Get(ctx, t.config.Secret, metav1.GetOptions{})
}

// outworn says whether a CA of ours is to be replaced.
func (t *Trust) outworn(s *corev1.Secret, now time.Time) bool {
	if _, asked := s.Annotations[RotateAnnotation]; asked {
		return true
	}
	issuer, err := identity.ParseIssuer(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey], s.Data[rootsKey])
	return err == nil && issuer.NotAfter().Sub(now) < t.config.RootLife/3
}

// fresh returns the Secret with a new root; before is what it was, nil if there was none.
func (t *Trust) fresh(before *corev1.Secret, now time.Time) (*corev1.Secret, error) {
	root, err := identity.NewRoot(t.config.Authority.Config().TrustDomain, now, t.config.RootLife)
	if err != nil {
		return nil, err
	}
	cert, key, roots, err := root.PEM()
	if err != nil {
		return nil, err
	}
	data := map[string][]byte{corev1.TLSCertKey: cert, corev1.TLSPrivateKeyKey: key, rootsKey: roots}
	if before == nil {
		return &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: t.config.Namespace, Name: t.config.Secret, Labels: ourLabels()},
			Type:       corev1.SecretTypeTLS, Data: data,
		}, nil
	}
	s := before.DeepCopy()
	delete(s.Annotations, RotateAnnotation)
	data[previousCert], data[previousKey] = s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]
	data[previousRoots] = s.Data[rootsKey]
	s.Data = data
	return s, nil
}

// errRaced says that another replica was faster.
var errRaced = errors.New("another replica changed it")

// keep brings the record up to date and returns it.
func (t *Trust) keep(ctx context.Context, issuer *identity.Issuer, now time.Time) (identity.Record, error) {
	for range 5 {
		record, err := t.try(ctx, issuer, now)
		if !errors.Is(err, errRaced) {
			return record, err
		}
	}
	return nil, errRaced
}

func (t *Trust) try(ctx context.Context, issuer *identity.Issuer, now time.Time) (identity.Record, error) {
	maps := t.config.Client.CoreV1().ConfigMaps(t.config.Namespace)
	m, err := maps.Get(ctx, TrustConfigMap, metav1.GetOptions{})
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return nil, err
	}
	var stored identity.Record
	if !missing {
		if stored, err = identity.DecodeRecord([]byte(m.Data[rootRecordKey])); err != nil {
			t.config.Log.Warn("the record of trusted roots is made anew", "name", TrustConfigMap, "err", err)
			stored = nil
		}
	}
	next := stored.Merge(t.known()).Next(issuer.Roots(), now, t.config.Authority.Config().Keep())
	if len(next) == 0 {
		return nil, errors.New("the CA has ended")
	}
	ends := issuer.NotAfter().UTC().Format(time.RFC3339)
	if !missing && next.Equal(stored) && m.Data[rootsKey] == string(next.PEM()) && m.Data[endsKey] == ends {
		return next, nil
	}
	text, err := next.Encode()
	if err != nil {
		return nil, err
	}
	data := map[string]string{rootRecordKey: string(text), rootsKey: string(next.PEM()), endsKey: ends}
	if missing {
		err = makeConfigMap(ctx, t.config.Client, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: t.config.Namespace, Name: TrustConfigMap, Labels: ourLabels()}, Data: data,
		})
		if err == nil {
			err = errRaced // maybe
		}
		return nil, err
	}
	m = m.DeepCopy()
	m.Data = data
	if _, err = maps.Update(ctx, m, metav1.UpdateOptions{}); apierrors.IsConflict(err) {
		return nil, errRaced
	}
	return next, err
}

func (t *Trust) known() identity.Record {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.record
}
