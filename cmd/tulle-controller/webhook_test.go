package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/kube"
)

func newAuthority(t *testing.T) *identity.CA {
	t.Helper()
	ca, err := identity.NewCA("tulle", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// TestWebhookCertificateTurnsOver: the certificate is of the old CA until the API server has trusted the new one for a
// while. Replicas that start meanwhile have no choice.
func TestWebhookCertificateTurnsOver(t *testing.T) {
	first, second := newAuthority(t), newAuthority(t)
	trusted := false
	c := &webhookCertificate{names: []string{"x"}, trusted: func(ca []byte) bool {
		if !bytes.Equal(ca, second.CertPEM()) {
			t.Error("asked for another CA")
		}
		return trusted
	}}
	now := time.Now()
	if c.serving(now) != nil || c.newest() != nil {
		t.Error("something is shown before there is a CA")
	}
	c.use(first)
	old := c.serving(now)
	c.use(first)
	c.use(second)
	if !bytes.Equal(c.newest(), second.CertPEM()) {
		t.Error("the API server is not told of the new CA")
	}
	steps := []struct {
		after   time.Duration
		trusted bool
		want    bool // the new one
	}{{0, false, false}, {time.Minute, true, false}, {time.Minute + turnover/2, true, false}, {2 * time.Minute, false, false}, {3 * time.Minute, true, false}, {3*time.Minute + turnover, true, true}, {time.Hour, false, true}}
	for i, s := range steps {
		trusted = s.trusted
		c.use(second) // as it is every minute
		if got := c.serving(now.Add(s.after)) != old; got != s.want {
			t.Errorf("step %d: new %v, want %v", i, got, s.want)
		}
	}
	c.use(first)
	c.use(second)
	if c.serving(now) == old || c.next != nil {
		t.Error("back again is another turn")
	}
}

// TestWebhookIsServed asks a replica as the API server does, by the name and the CA that it is told.
func TestWebhookIsServed(t *testing.T) {
	client := api()
	r := start(t, client, "c-1")
	pool := func() []byte {
		m, err := client.CoreV1().ConfigMaps("tulle-system").Get(t.Context(), kube.CAConfigMap, metav1.GetOptions{})
		if err != nil {
			return nil
		}
		return []byte(m.Data[kube.CAKey])
	}
	eventually(t, "a CA", func() bool { return len(pool()) > 0 && len(r.shown.newest()) > 0 })
	roots, err := identity.CertPool(pool())
	if err != nil {
		t.Fatal(err)
	}
	asker := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "tulle-webhook.tulle-system.svc"}}}
	defer asker.CloseIdleConnections()
	ask := func(path, body string) string {
		t.Helper()
		res, err := asker.Post("https://"+r.listeners.webhook.Addr().String()+path, "application/json", strings.NewReader(body)) //nolint:noctx // it is on this machine
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(res.StatusCode, " ", string(b))
	}
	const object = `{"apiVersion":"split.smi-spec.io/v1alpha1","kind":"TrafficSplit","metadata":{"name":"s","namespace":"shop"},"spec":{"service":"web","backends":[{"service":"a","weight":"1"}]}}`
	if got := ask("/convert", `{"kind":"ConversionReview","apiVersion":"apiextensions.k8s.io/v1","request":{"uid":"u","desiredAPIVersion":"split.smi-spec.io/v1alpha4","objects":[`+object+`]}}`); !strings.Contains(got, `"weight":1000`) {
		t.Errorf("converted to %s", got)
	}
	eventually(t, "a judgement beside other objects", func() bool {
		got := ask("/validate", `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"u","operation":"CREATE","resource":{"group":"split.smi-spec.io","version":"v1alpha1","resource":"trafficsplits"},"object":`+object+`}}`)
		return strings.Contains(got, `"allowed":true`) && strings.Contains(got, "RootNotFound")
	})
}
