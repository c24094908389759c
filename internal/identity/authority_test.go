package identity

import (
	"crypto/rand"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func certsOf(list ...*Issuer) []*x509.Certificate {
	var out []*x509.Certificate
	for _, is := range list {
		out = append(out, is.Roots()...)
	}
	return out
}

// signs says which issuer's root the Authority signs by at a time.
func signs(t *testing.T, a *Authority, now time.Time, issuers map[string]*Issuer) string {
	t.Helper()
	_, csr, err := NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := a.Sign(csr, "shop", "web", "node-1", now)
	if err != nil {
		if !errors.Is(err, ErrNotReady) {
			t.Fatal(err)
		}
		return "nothing"
	}
	for name, is := range issuers {
		b, err := NewBundle(testDomain, is.Roots())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseAndVerify(chain, b, now); err == nil {
			return name
		}
	}
	return "unknown"
}

func TestNewRootSignsOnceItHasSpread(t *testing.T) {
	now := time.Now()
	a := NewAuthority(AuthorityConfig{TrustDomain: testDomain, Life: time.Hour, Spread: time.Minute})
	one, two := newRoot(t, testDomain, now), newRoot(t, testDomain, now)
	names := map[string]*Issuer{"one": one, "two": two}
	if got := signs(t, a, now, names); got != "nothing" {
		t.Errorf("before any CA: %s", got)
	}
	record := Record(nil).Next(certsOf(one), now, a.Config().Keep())
	a.Update(record, one)
	if got := signs(t, a, now, names); got != "one" {
		t.Errorf("the first CA has nobody to wait for: %s", got)
	}

	// The CA is replaced by one that knows nothing of the first.
	record = record.Next(certsOf(two), now, a.Config().Keep())
	a.Update(record, two)
	fresh := NewAuthority(a.Config()) // a replica that starts just now
	fresh.Update(record, two)
	for _, step := range []struct {
		after       time.Duration
		old, joined string
	}{
		{0, "one", "nothing"},
		{59 * time.Second, "one", "nothing"},
		{time.Minute, "two", "two"},
	} {
		at := now.Add(step.after)
		if got := signs(t, a, at, names); got != step.old {
			t.Errorf("after %v: %s signs", step.after, got)
		}
		if got := signs(t, fresh, at, names); got != step.joined {
			t.Errorf("after %v, new replica: %s signs", step.after, got)
		}
	}
	// A replica that is given both doesn't have to wait.
	both := NewAuthority(a.Config())
	both.Update(record, two, one)
	if got := signs(t, both, now, names); got != "one" {
		t.Errorf("with the one before at hand: %s", got)
	}
}

func TestRecordOverlaps(t *testing.T) {
	now := time.Now()
	one, two := newRoot(t, testDomain, now), newRoot(t, testDomain, now)
	keep := time.Hour
	r := Record(nil).Next(certsOf(one), now, keep)
	if again := r.Next(certsOf(one), now.Add(time.Minute), keep); !again.Equal(r) {
		t.Error("nothing happened, and the record changed")
	}
	r = r.Next(certsOf(two), now, keep)
	if len(r) != 2 || !r[0].Until.Equal(now.Add(keep)) || !r[1].Since.Equal(now) {
		t.Fatalf("after the change: %+v", r)
	}
	text, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	read, err := DecodeRecord(text)
	if err != nil || !read.Equal(r) {
		t.Errorf("came back as %+v, %v", read, err)
	}
	back := r.Next(certsOf(one), now.Add(time.Minute), keep)
	if !back[0].Until.IsZero() || back[1].Until.IsZero() {
		t.Error("the first root came back and is to go all the same")
	}
	if later := r.Next(certsOf(two), now.Add(keep+time.Second), keep); len(later) != 1 || !later[0].Cert.Equal(two.cert) {
		t.Errorf("the old root stays: %d", len(later))
	}
	if late := r.Next(nil, now.Add(25*time.Hour), 100*time.Hour); len(late) != 0 {
		t.Error("roots are trusted beyond their life")
	}
	if merged := (Record{r[1]}).Merge(r); len(merged) != 2 {
		t.Errorf("merged into %d", len(merged))
	}
	if _, err := DecodeRecord([]byte(`[{"cert":"nothing"}]`)); err == nil {
		t.Error("read a record without a certificate")
	}
}

func TestSVIDsEndWithTheirRoot(t *testing.T) {
	now := time.Now()
	a := NewAuthority(AuthorityConfig{TrustDomain: testDomain, Life: time.Hour})
	root := newRoot(t, testDomain, now)
	record := Record(nil).Next(root.Roots(), now, time.Hour)
	record[0].Until = now.Add(10 * time.Minute)
	a.Update(record, root)
	_, csr, err := NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := a.Sign(csr, "shop", "web", "node-1", now)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	if leaf.NotAfter.After(now.Add(10 * time.Minute)) {
		t.Errorf("valid until %v, trusted until %v", leaf.NotAfter, now.Add(10*time.Minute))
	}
}

func TestIntermediateIsRenewedBeforeItShortensLives(t *testing.T) {
	now := time.Now()
	a := NewAuthority(AuthorityConfig{TrustDomain: testDomain, Life: 10 * time.Minute, IntermediateLife: time.Hour})
	root := newRoot(t, testDomain, now)
	record := Record(nil).Next(root.Roots(), now, time.Hour)
	a.Update(record, root)
	for minute := range 200 {
		at := now.Add(time.Duration(minute) * time.Minute)
		im, end, err := a.ready(at, a.config.Spread)
		if err != nil {
			t.Fatal(err)
		}
		if left := im.notAfter.Sub(at); left < 10*time.Minute || end.Sub(at) != 10*time.Minute {
			t.Fatalf("minute %d: the intermediate has %v left", minute, left)
		}
	}
}

// A CA of a user's own: an intermediate with the root above it, or one that may have no CA below it.
func TestForeignIssuers(t *testing.T) {
	now := time.Now()
	root := newRoot(t, testDomain, now)
	free := subordinate(t, nil, now, -1)
	sub := subordinate(t, free, now, -1)
	leafOnly := subordinate(t, free, now, 0)
	tight := subordinate(t, root, now, -1) // the root allows one CA below it only
	for _, tc := range []struct {
		what        string
		issuer      *Issuer
		withRoots   bool
		wantTrusted *x509.Certificate
		wantChain   int
	}{
		{"self-signed", root, false, root.cert, 2},
		{"below a root that is given", sub, true, free.cert, 3},
		{"below a root that nobody knows", sub, false, sub.cert, 3},
		{"may have no CA below", leafOnly, true, free.cert, 2},
		{"its root allows no CA below", tight, true, root.cert, 2},
	} {
		cert, key, roots, err := tc.issuer.PEM()
		if err != nil {
			t.Fatal(err)
		}
		if !tc.withRoots {
			roots = nil
		}
		is, err := ParseIssuer(cert, key, roots)
		if err != nil {
			t.Fatal(tc.what, err)
		}
		if diff := cmp.Diff(1, len(is.Roots())); diff != "" || !is.Roots()[0].Equal(tc.wantTrusted) {
			t.Errorf("%s: trusts another", tc.what)
		}
		chain, _ := sign(t, intermediate(t, is, now, time.Hour), account(t, testDomain, "a", "b"), "n", now, now.Add(time.Minute))
		if len(chain) != tc.wantChain {
			t.Errorf("%s: a chain of %d", tc.what, len(chain))
		}
		b, err := NewBundle(testDomain, is.Roots())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseAndVerify(chain, b, now); err != nil {
			t.Errorf("%s: %v", tc.what, err)
		}
	}
	leaf, key := sign(t, intermediate(t, root, now, time.Hour), account(t, testDomain, "a", "b"), "n", now, now.Add(time.Minute))
	certs, err := parseChain(leaf)
	if err != nil {
		t.Fatal(err)
	}
	certPEM, keyPEM, _, err := (&Issuer{cert: certs[0], key: key}).PEM()
	if err != nil {
		t.Fatal(err)
	}
	if _, err = ParseIssuer(certPEM, keyPEM, nil); err == nil {
		t.Error("took a workload's certificate for a CA")
	}
}

// subordinate makes a CA below an issuer, or a root if that is nil.
func subordinate(t *testing.T, is *Issuer, now time.Time, pathLen int) *Issuer {
	t.Helper()
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	c := caTemplate("subordinate", now, now.Add(time.Hour))
	c.MaxPathLen, c.MaxPathLenZero = pathLen, pathLen == 0
	parent, by := c, key
	if is != nil {
		parent, by = is.cert, is.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if is == nil {
		return &Issuer{cert: cert, key: key, roots: []*x509.Certificate{cert}}
	}
	return &Issuer{cert: cert, chain: []*x509.Certificate{cert}, key: key, roots: is.roots}
}
