package identity

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var testDomain = spiffeid.RequireTrustDomainFromString("cluster.local")

func newRoot(t testing.TB, td TrustDomain, now time.Time) *Issuer {
	t.Helper()
	root, err := NewRoot(td, now, 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func intermediate(t testing.TB, is *Issuer, now time.Time, life time.Duration) *Intermediate {
	t.Helper()
	im, err := is.Intermediate("test", now, life)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

func account(t testing.TB, td TrustDomain, namespace, name string) ID {
	t.Helper()
	id, err := Account(td, namespace, name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func sign(t testing.TB, im *Intermediate, id ID, node string, now, end time.Time) ([][]byte, crypto.Signer) {
	t.Helper()
	key, csr, err := NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := im.Sign(csr, id, node, now, end)
	if err != nil {
		t.Fatal(err)
	}
	return chain, key
}

// forge makes a leaf as only a careless or hostile CA would, for what Sign never signs.
func forge(t testing.TB, im *Intermediate, edit func(*x509.Certificate)) [][]byte {
	t.Helper()
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	c := &x509.Certificate{
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true, URIs: []*url.URL{account(t, testDomain, "shop", "web").URL()},
	}
	edit(c)
	der, err := x509.CreateCertificate(rand.Reader, c, im.cert, key.Public(), im.key)
	if err != nil {
		t.Fatal(err)
	}
	return append([][]byte{der}, im.chain[0].Raw)
}

func TestVerify(t *testing.T) {
	now := time.Now()
	root := newRoot(t, testDomain, now)
	im := intermediate(t, root, now, 6*time.Hour)
	other := intermediate(t, newRoot(t, testDomain, now), now, 6*time.Hour)
	bundle, err := NewBundle(testDomain, root.Roots())
	if err != nil {
		t.Fatal(err)
	}
	web := account(t, testDomain, "shop", "web")
	good, _ := sign(t, im, web, "node-1", now, now.Add(time.Hour))
	foreign, _ := sign(t, im, account(t, spiffeid.RequireTrustDomainFromString("elsewhere"), "shop", "web"), "node-1", now, now.Add(time.Hour))
	stranger, _ := sign(t, other, web, "node-1", now, now.Add(time.Hour))
	uri := func(texts ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.URIs = nil
			for _, s := range texts {
				u, err := url.Parse(s)
				if err != nil {
					t.Fatal(err)
				}
				c.URIs = append(c.URIs, u)
			}
		}
	}
	nul := forge(t, im, uri("spiffe://cluster.local/ns/shop/sa/web%2E"))
	nul[0] = bytes.Replace(nul[0], []byte("/sa/web%2E"), []byte("/sa/web\x00.x"), 1)

	for _, tc := range []struct {
		what  string
		chain [][]byte
		at    time.Duration
		want  Reason // "" = good
	}{
		{"good", good, 0, ""},
		{"a minute before its end", good, 59 * time.Minute, ""},
		{"nothing", nil, 0, NoCertificate},
		{"ended", good, time.Hour + time.Second, Expired},
		{"not begun", good, -skew - time.Second, NotYetValid},
		{"another trust domain's", foreign, 0, WrongTrustDomain},
		{"another root's, same names", stranger, 0, Untrusted},
		{"without its intermediate", good[:1], 0, Untrusted},
		{"an intermediate", good[1:], 0, Malformed},
		{"no URI", forge(t, im, uri()), 0, Malformed},
		{"two URIs", forge(t, im, uri(web.String(), "spiffe://cluster.local/ns/shop/sa/admin")), 0, Malformed},
		{"twice the same URI", forge(t, im, uri(web.String(), web.String())), 0, Malformed},
		{"another scheme", forge(t, im, uri("https://cluster.local/ns/shop/sa/web")), 0, Malformed},
		{"a trust domain alone", forge(t, im, uri("spiffe://cluster.local")), 0, Malformed},
		{"a dot segment", forge(t, im, uri("spiffe://cluster.local/ns/shop/sa/../sa/web")), 0, Malformed},
		{"a NUL in the SAN", nul, 0, Malformed},
		{"a CA", forge(t, im, func(c *x509.Certificate) { c.IsCA = true }), 0, Malformed},
		{"may sign", forge(t, im, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }), 0, Malformed},
		{"no certificate at all", [][]byte{[]byte("x")}, 0, Malformed},
		{"too long a chain", [][]byte{good[0], good[1], good[1], good[1], good[1], good[1], good[1], good[1], good[1]}, 0, Malformed},
	} {
		peer, err := ParseAndVerify(tc.chain, bundle, now.Add(tc.at))
		var refused *PeerError
		if tc.want == "" {
			if err != nil || peer.ID != web || peer.Node != "node-1" || !peer.NotAfter.Equal(now.Add(time.Hour).Truncate(time.Second)) {
				t.Errorf("%s: %v, %v", tc.what, peer, err)
			}
		} else if !errors.As(err, &refused) || refused.Reason != tc.want || peer != (Peer{}) {
			t.Errorf("%s: %v, %v; want %s", tc.what, peer, err, tc.want)
		}
	}
}

// What a request says of itself doesn't count.
func TestSignTakesOnlyTheKey(t *testing.T) {
	now := time.Now()
	im := intermediate(t, newRoot(t, testDomain, now), now, time.Hour)
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	admin := account(t, testDomain, "kube-system", "admin")
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		URIs: []*url.URL{admin.URL()}, DNSNames: []string{"api.example.com"},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := im.Sign(csr, account(t, testDomain, "shop", "web"), "node-1", now, now.Add(3*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	if len(leaf.DNSNames) != 0 || len(leaf.URIs) != 1 || leaf.URIs[0].Path != "/ns/shop/sa/web" || leaf.IsCA {
		t.Errorf("signed %v %v", leaf.DNSNames, leaf.URIs)
	}
	if leaf.NotAfter.After(im.cert.NotAfter) {
		t.Error("it outlives its CA")
	}
	csr[len(csr)-1] ^= 1
	if _, err := im.Sign(csr, admin, "node-1", now, now.Add(time.Hour)); !errors.Is(err, ErrBadRequest) {
		t.Errorf("a request with a wrong signature: %v", err)
	}
}

func TestAccountIsLiteral(t *testing.T) {
	id := account(t, testDomain, "shop", "web.v2")
	if id.String() != "spiffe://cluster.local/ns/shop/sa/web.v2" {
		t.Error(id)
	}
	if ns, name, ok := SplitAccount(id); !ok || ns != "shop" || name != "web.v2" {
		t.Error(ns, name, ok)
	}
	for _, bad := range [][2]string{{"", "web"}, {"shop", ""}, {"shop", "a/sa/b"}, {"..", "web"}, {"shop", "we\x00b"}} {
		if id, err := Account(testDomain, bad[0], bad[1]); err == nil {
			t.Errorf("%q became %s", bad, id)
		}
	}
	if _, _, ok := SplitAccount(spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/web/x")); ok {
		t.Error("took a longer path")
	}
}
