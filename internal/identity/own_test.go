package identity

import (
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"
)

// answers opens a connection to who shows the certificate, and says whether the client believes it.
func answers(t *testing.T, cert *tls.Certificate, config *tls.Config) error {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conn, err := l.Accept(); err == nil {
			defer conn.Close()
			_ = tls.Server(conn, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*cert}}).HandshakeContext(t.Context())
		}
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	err = tls.Client(conn, config).HandshakeContext(t.Context())
	conn.Close()
	<-done
	return err
}

// An Authority is known by its own CA: by the account, and by no certificate that anybody else was given.
func TestAuthorityIsKnownByItsCA(t *testing.T) {
	now := time.Now()
	root := newRoot(t, testDomain, now)
	a := NewAuthority(AuthorityConfig{TrustDomain: testDomain})
	if _, err := a.Certificate("tulle-system", "tulle-identity", now); err == nil {
		t.Error("a certificate without a CA")
	}
	a.Update(Record(nil).Next(certsOf(root), now, a.Config().Keep()), root)
	good, err := a.Certificate("tulle-system", "tulle-identity", now)
	if err != nil {
		t.Fatal(err)
	}
	key, csr, err := NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	issued := func(namespace, account, node string) *tls.Certificate {
		chain, err := a.Sign(csr, namespace, account, node, now)
		if err != nil {
			t.Fatal(err)
		}
		return &tls.Certificate{Certificate: chain, PrivateKey: key}
	}
	stranger := NewAuthority(AuthorityConfig{TrustDomain: testDomain})
	strange := newRoot(t, testDomain, now)
	stranger.Update(Record(nil).Next(certsOf(strange), now, a.Config().Keep()), strange)
	forged, err := stranger.Certificate("tulle-system", "tulle-identity", now)
	if err != nil {
		t.Fatal(err)
	}
	_, _, pem, err := root.PEM()
	if err != nil {
		t.Fatal(err)
	}
	b, err := ParseRoots(testDomain, pem)
	if err != nil {
		t.Fatal(err)
	}
	id, err := Account(testDomain, "tulle-system", "tulle-identity")
	if err != nil {
		t.Fatal(err)
	}
	for what, tc := range map[string]struct {
		cert *tls.Certificate
		want string
	}{
		"itself": {good, ""},
		"the account's SVID, as a node's proxy gets it": {issued("tulle-system", "tulle-identity", "n1"), "issued to the proxy of node n1"},
		"another account's":                             {issued("tulle-system", "tulle-controller", "n1"), "answers"},
		"the account of another namespace":              {issued("shop", "tulle-identity", "n1"), "answers"},
		"another CA's":                                  {forged, "untrusted"},
	} {
		err := answers(t, tc.cert, Expect(b, id))
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", what, err, tc.want)
		}
	}
}

// by says whose root is behind a certificate.
func by(t *testing.T, cert *tls.Certificate, now time.Time, roots map[string]*Issuer) string {
	t.Helper()
	for name, is := range roots {
		b, err := NewBundle(testDomain, is.Roots())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseAndVerify(cert.Certificate, b, now); err == nil {
			return name
		}
	}
	return "unknown"
}

// Pods learn of a new root later than proxies are told of it. Until they have, who signs by it goes on showing the old one.
func TestOwnCertificateOutlivesARoot(t *testing.T) {
	now := time.Now()
	one, two := newRoot(t, testDomain, now), newRoot(t, testDomain, now)
	names := map[string]*Issuer{"one": one, "two": two}
	a := NewAuthority(AuthorityConfig{TrustDomain: testDomain, Life: 20 * time.Second, Spread: 20 * time.Second})
	record := Record(nil).Next(certsOf(one), now, a.Config().Keep())
	a.Update(record, one)
	own := func(after time.Duration) string {
		cert, err := a.Certificate("tulle-system", "tulle-identity", now.Add(after))
		if err != nil {
			t.Fatal(err)
		}
		return by(t, cert, now.Add(after), names)
	}
	first, err := a.Certificate("tulle-system", "tulle-identity", now)
	if err != nil {
		t.Fatal(err)
	}
	if later, err := a.Certificate("tulle-system", "tulle-identity", now.Add(11*time.Second)); err != nil || later == first {
		t.Errorf("not renewed at half of its life: %v", err)
	}
	record = record.Next(certsOf(two), now, a.Config().Keep())
	a.Update(record, two, one)
	if got := own(time.Second); got != "one" {
		t.Errorf("at once: %s", got)
	}
	if got, signed := own(time.Minute), signs(t, a, now.Add(time.Minute), names); got != "one" || signed != "two" {
		t.Errorf("after the spread: shown %s, signed by %s", got, signed)
	}
	if got := own(mounted + time.Second); got != "two" {
		t.Errorf("when it is mounted: %s", got)
	}
	// One that starts now and has the new root only shows that: some believe it already, and the others ask again.
	fresh := NewAuthority(a.Config())
	fresh.Update(record, two)
	a = fresh
	if got := own(time.Second); got != "two" {
		t.Errorf("nothing else is there: %s", got)
	}
}
