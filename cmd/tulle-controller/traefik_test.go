package main

import (
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/kube"
)

// TestTraefikIsServed: the controller gives stock Traefik its configuration, and gives it to nobody else.
func TestTraefikIsServed(t *testing.T) {
	client := api()
	for _, p := range []*corev1.Pod{pod("p1", "proxy", "10.0.0.1"), pod("c-1", "controller", "10.0.0.8")} {
		if _, err := client.CoreV1().Pods("tulle-system").Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.CoreV1().Services("shop").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}, {Name: "tcp-a", Port: 81}, {Name: "tcp-b", Port: 82}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	r := start(t, client, "c-1", "--engine=traefik", "--entry-points=30000-30001", "--traefik-address=127.0.0.1:0")
	url := "https://" + r.listeners.traefik.Addr().String() + "/traefik"
	var last string
	eventually(t, "the configuration", func() bool {
		certificate, ok := traefikCertificate(t, client)
		if !ok {
			return false
		}
		answer, err := ask(t, client, url, certificate)
		last = answer
		return err == nil && strings.Contains(answer, `"shop.web.80-0":{"entryPoints":["tcp-3000`)
	})
	if strings.Count(last, `"entryPoints":["tcp-3000`) != 2 {
		t.Errorf("of three ports, two fit into the range: %s", last)
	}
	if !strings.Contains(last, `{"entryPoints":["traefik"],"service":"ping@internal","rule":"Path(`) {
		t.Errorf("there is no router for the readiness probe: %s", last)
	}
	stranger, err := identity.NewCA("tulle-traefik.tulle-system", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	other, err := stranger.ServingCertificate([]string{"tulle-traefik.tulle-system"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for who, certificate := range map[string]*tls.Certificate{"nobody": {}, "a stranger": other} {
		if answer, err := ask(t, client, url, certificate); err == nil {
			t.Errorf("%s got %s", who, answer)
		}
	}
}

// traefikCertificate is what Traefik's pods mount.
func traefikCertificate(t *testing.T, client *fake.Clientset) (*tls.Certificate, bool) {
	t.Helper()
	s, err := client.CoreV1().Secrets("tulle-system").Get(t.Context(), kube.TraefikSecret, metav1.GetOptions{})
	if err != nil {
		return nil, false
	}
	pair, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		t.Fatal(err)
	}
	return &pair, true
}

func ask(t *testing.T, client *fake.Clientset, url string, certificate *tls.Certificate) (string, error) {
	t.Helper()
	ca, err := client.CoreV1().ConfigMaps("tulle-system").Get(t.Context(), kube.CAConfigMap, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	pool, err := identity.CertPool([]byte(ca.Data[kube.CAKey]))
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: pool, ServerName: "tulle-controller.tulle-system.svc",
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil },
	}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return string(body), err
}

func TestEntryPointsAreARange(t *testing.T) {
	for value, ok := range map[string]bool{
		"20000-20249": true, "61000-61000": true, "20000": false, "20000-": false, "20001-20000": false, "1-20000": false, "14000-16000": false,
		"20000-70000": false, "20000-20001,3": false, "a-b": false,
	} {
		c, err := complete(t, nil, "--pod-name=c-1", "--engine=traefik", "--entry-points="+value)
		if (err == nil) != ok {
			t.Errorf("%s: %v", value, err)
		}
		if err != nil && !strings.Contains(err.Error(), "--entry-points") {
			t.Errorf("%s: the error doesn't name the flag: %v", value, err)
		}
		if ok && (c.shadow.TargetPorts.First == 0 || !c.traefik) {
			t.Errorf("%s: %+v", value, c.shadow)
		}
	}
}
