package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
)

// Bundle is a trust domain and the roots by which its SVIDs are known. It is immutable.
type Bundle struct {
	domain TrustDomain
	roots  []*x509.Certificate
	set    *x509bundle.Bundle
	sum    string
}

// NewBundle returns the bundle of a trust domain, which needs a root.
func NewBundle(td TrustDomain, roots []*x509.Certificate) (*Bundle, error) {
	if td.IsZero() || len(roots) == 0 {
		return nil, errors.New("a trust bundle needs a trust domain and a root")
	}
	h := sha256.New()
	h.Write([]byte(td.Name()))
	for _, r := range roots {
		h.Write(r.Raw)
	}
	return &Bundle{domain: td, roots: roots, set: x509bundle.FromX509Authorities(td, roots), sum: hex.EncodeToString(h.Sum(nil)[:8])}, nil
}

// ParseBundle is NewBundle with the roots in DER.
func ParseBundle(trustDomain string, roots [][]byte) (*Bundle, error) {
	td, err := ParseTrustDomain(trustDomain)
	if err != nil {
		return nil, err
	}
	certs, err := parseChain(roots)
	if err != nil {
		return nil, fmt.Errorf("trust bundle of %s: %w", td, err)
	}
	return NewBundle(td, certs)
}

// TrustDomain returns the trust domain.
func (b *Bundle) TrustDomain() TrustDomain { return b.domain }

// Roots returns the roots, which are read only.
func (b *Bundle) Roots() []*x509.Certificate { return b.roots }

// DER returns the roots' encodings.
func (b *Bundle) DER() [][]byte {
	out := make([][]byte, 0, len(b.roots))
	for _, r := range b.roots {
		out = append(out, r.Raw)
	}
	return out
}

// Sum names the content: bundles with equal sums trust the same.
func (b *Bundle) Sum() string { return b.sum }

func parseChain(der [][]byte) ([]*x509.Certificate, error) {
	out := make([]*x509.Certificate, 0, len(der))
	for _, d := range der {
		c, err := x509.ParseCertificate(d)
		if err != nil {
			return nil, fmt.Errorf("parse certificate: %w", err)
		}
		out = append(out, c)
	}
	return out, nil
}
