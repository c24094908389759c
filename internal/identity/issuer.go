package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Issuer is what SVIDs descend from: the mesh's own root, or a CA that somebody else made. It is immutable.
type Issuer struct {
	chain []*x509.Certificate // the issuer's certificate first, without a root at the end
	cert  *x509.Certificate   // the issuer's
	key   crypto.Signer
	roots []*x509.Certificate // what has to be trusted for it
}

// NewRoot makes a self-signed root of a trust domain with a new key.
func NewRoot(td TrustDomain, now time.Time, life time.Duration) (*Issuer, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	template := caTemplate("tulle root of "+td.Name(), now, now.Add(life))
	template.MaxPathLen = 1
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make root: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make root: %w", err)
	}
	return &Issuer{cert: cert, key: key, roots: []*x509.Certificate{cert}}, nil
}

// ParseIssuer reads a CA: its certificate, with intermediates after it if there are any, its key, and the roots above
// it; roots may be empty. These are a Secret's tls.crt, tls.key and ca.crt.
func ParseIssuer(certPEM, keyPEM, rootsPEM []byte) (*Issuer, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("parse CA: %w", err)
	}
	chain, err := parseChain(pair.Certificate)
	if err != nil {
		return nil, fmt.Errorf("parse CA: %w", err)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !chain[0].IsCA || chain[0].KeyUsage != 0 && chain[0].KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, errors.New("parse CA: it may not sign certificates")
	}
	above, err := parsePEM(rootsPEM)
	if err != nil {
		return nil, fmt.Errorf("parse CA: %w", err)
	}
	is := &Issuer{cert: chain[0], key: key}
	for _, c := range chain {
		if !selfSigned(c) {
			is.chain = append(is.chain, c)
		} else {
			above = append(above, c)
		}
	}
	is.roots = rootsOf(chain[0], is.chain, above)
	return is, nil
}

// rootsOf returns which of the roots above lead to the issuer. If none does, the topmost certificate there is has to be
// trusted as it is.
func rootsOf(cert *x509.Certificate, chain, above []*x509.Certificate) []*x509.Certificate {
	var out []*x509.Certificate
	intermediates := x509.NewCertPool()
	for _, c := range chain {
		intermediates.AddCert(c)
	}
	seen := map[string]bool{}
	for _, root := range above {
		pool := x509.NewCertPool()
		pool.AddCert(root)
		_, err := cert.Verify(x509.VerifyOptions{
			Roots: pool, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, CurrentTime: cert.NotBefore.Add(time.Second),
		})
		if err == nil && !seen[string(root.Raw)] {
			seen[string(root.Raw)] = true
			out = append(out, root)
		}
	}
	if len(out) == 0 {
		out = append(out, append([]*x509.Certificate{cert}, chain...)[len(chain)])
	}
	return out
}

// PEM returns the issuer as ParseIssuer reads it.
func (is *Issuer) PEM() (cert, key, roots []byte, err error) {
	der, err := x509.MarshalPKCS8PrivateKey(is.key)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("encode CA key: %w", err)
	}
	chain := is.chain
	if len(chain) == 0 {
		chain = []*x509.Certificate{is.cert}
	}
	return encodePEM(chain), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), encodePEM(is.roots), nil
}

// Roots are the certificates that have to be trusted for what the issuer signs.
func (is *Issuer) Roots() []*x509.Certificate { return is.roots }

// NotAfter is when the issuer's certificate ends.
func (is *Issuer) NotAfter() time.Time { return is.cert.NotAfter }

// Equal says whether both are the same CA.
func (is *Issuer) Equal(o *Issuer) bool { return o != nil && is.cert.Equal(o.cert) }

// Intermediate signs SVIDs. Its key lives in the memory of one process only. It is immutable.
type Intermediate struct {
	chain    []*x509.Certificate // its own certificate and those above it, without a root
	cert     *x509.Certificate
	key      crypto.Signer
	notAfter time.Time // of all of the chain
}

// Intermediate signs a new intermediate CA. An issuer that may have no CA below it, by its path length, signs SVIDs
// itself.
func (is *Issuer) Intermediate(name string, now time.Time, life time.Duration) (*Intermediate, error) {
	end := is.cert.NotAfter
	for _, c := range is.chain {
		end = minTime(end, c.NotAfter)
	}
	if !is.mayDelegate() {
		return &Intermediate{chain: is.chain, cert: is.cert, key: is.key, notAfter: end}, nil
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	template := caTemplate("tulle intermediate "+name, now, minTime(now.Add(life), end))
	template.MaxPathLenZero = true
	der, err := x509.CreateCertificate(rand.Reader, template, is.cert, key.Public(), is.key)
	if err != nil {
		return nil, fmt.Errorf("sign intermediate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("sign intermediate: %w", err)
	}
	return &Intermediate{chain: append([]*x509.Certificate{cert}, is.chain...), cert: cert, key: key, notAfter: cert.NotAfter}, nil
}

// mayDelegate says whether the path lengths above allow one more CA.
func (is *Issuer) mayDelegate() bool {
	above := is.chain
	if len(above) == 0 || !above[0].Equal(is.cert) {
		above = append([]*x509.Certificate{is.cert}, above...)
	}
	for _, root := range is.roots {
		if !slices.ContainsFunc(above, root.Equal) {
			above = append(slices.Clip(above), root)
			break
		}
	}
	for below, c := range above {
		if limited := c.MaxPathLen > 0 || c.MaxPathLenZero; limited && c.MaxPathLen < below+1 {
			return false
		}
	}
	return true
}

func caTemplate(name string, now, end time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject:   pkix.Name{Organization: []string{organization}, CommonName: name},
		NotBefore: now.Add(-skew), NotAfter: end,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:     true, BasicConstraintsValid: true,
	}
}

func newKey() (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return key, nil
}

func selfSigned(c *x509.Certificate) bool {
	return string(c.RawSubject) == string(c.RawIssuer) && c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

func encodePEM(certs []*x509.Certificate) []byte {
	var b strings.Builder
	for _, c := range certs {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return []byte(b.String())
}

func parsePEM(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return out, nil
		}
		text = rest
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse certificate: %w", err)
		}
		out = append(out, c)
	}
}
