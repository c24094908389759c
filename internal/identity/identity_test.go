package identity

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"
)

var names = []string{"tulle-controller.tulle-system.svc", "127.0.0.1"}

func newTestCA(t *testing.T, now time.Time) *CA {
	t.Helper()
	ca, err := NewCA("tulle", now)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func TestServingCertificateVerifies(t *testing.T) {
	now := time.Now()
	ca, other := newTestCA(t, now), newTestCA(t, now)
	cert, err := ca.ServingCertificate(names, now)
	if err != nil {
		t.Fatal(err)
	}
	pool, err := CertPool(ca.CertPEM())
	if err != nil {
		t.Fatal(err)
	}
	otherPool, err := CertPool(other.CertPEM())
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		what string
		opts x509.VerifyOptions
		ok   bool
	}{
		{"its name", x509.VerifyOptions{Roots: pool, DNSName: names[0]}, true},
		{"its address", x509.VerifyOptions{Roots: pool, DNSName: names[1]}, true},
		{"a clock somewhat behind", x509.VerifyOptions{Roots: pool, CurrentTime: now.Add(-skew / 2)}, true},
		{"another name", x509.VerifyOptions{Roots: pool, DNSName: "tulle-controller.other.svc"}, false},
		{"another CA of the same name", x509.VerifyOptions{Roots: otherPool}, false},
		{"its life over", x509.VerifyOptions{Roots: pool, CurrentTime: now.Add(servingLife + time.Minute)}, false},
		{"as a client", x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, false},
	} {
		if _, err := cert.Leaf.Verify(tc.opts); (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.what, err)
		}
	}
}

func TestCAComesBackFromPEM(t *testing.T) {
	now := time.Now()
	ca := newTestCA(t, now)
	key, err := ca.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseCA(ca.CertPEM(), key)
	if err != nil {
		t.Fatal(err)
	}
	// Two replicas with the same CA sign for each other's clients.
	cert, err := again.ServingCertificate(names, now)
	if err != nil {
		t.Fatal(err)
	}
	pool, err := CertPool(ca.CertPEM())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: names[0]}); err != nil {
		t.Error(err)
	}
	if !again.NotAfter().Equal(ca.NotAfter()) || ca.NotAfter().Before(now.Add(9*365*24*time.Hour)) {
		t.Errorf("the CA ends at %v", ca.NotAfter())
	}
}

func TestParseCARefuses(t *testing.T) {
	now := time.Now()
	ca, other := newTestCA(t, now), newTestCA(t, now)
	key, err := ca.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	for what, pair := range map[string][2][]byte{
		"nothing":       {nil, nil},
		"no key":        {ca.CertPEM(), nil},
		"another's key": {other.CertPEM(), key},
		"swapped":       {key, ca.CertPEM()},
	} {
		if _, err := ParseCA(pair[0], pair[1]); err == nil {
			t.Errorf("%s was taken", what)
		}
	}
	if _, err := CertPool(key); err == nil {
		t.Error("a key was taken for certificates")
	}
}

func TestServingRenewsAtHalfItsLife(t *testing.T) {
	now := time.Now()
	s := NewServing(newTestCA(t, now), names...)
	at := func(d time.Duration) *tls.Certificate {
		t.Helper()
		cert, err := s.at(now.Add(d))
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	first := at(0)
	if at(servingLife/2-skew-time.Minute) != first {
		t.Error("renewed too early")
	}
	second := at(servingLife/2 + time.Minute)
	if second == first || bytes.Equal(second.Certificate[0], first.Certificate[0]) {
		t.Error("not renewed")
	}
	// After a long pause, such as a suspended machine, it is renewed as well.
	if third := at(40 * servingLife); third == second || third.Leaf.NotAfter.Before(now.Add(40*servingLife)) {
		t.Error("not renewed after a pause")
	}
}

func TestServingEndsWithItsCA(t *testing.T) {
	now := time.Now()
	ca := newTestCA(t, now)
	cert, err := ca.ServingCertificate(names, ca.NotAfter().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if cert.Leaf.NotAfter.After(ca.NotAfter()) {
		t.Errorf("it outlives its CA by %v", cert.Leaf.NotAfter.Sub(ca.NotAfter()))
	}
}
