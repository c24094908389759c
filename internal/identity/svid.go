package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

const (
	organization = "tulle"
	// nodePrefix marks the unit of an SVID's subject that names the node it was issued to. The subject means nothing to
	// SPIFFE, and nothing to anybody who looks for a server's name; a private extension would need a number of our own.
	nodePrefix = "node:"
)

// SVID is an identity document with its private key. It is immutable.
type SVID struct {
	ID       ID
	Node     string
	NotAfter time.Time // of the first certificate of the chain to end
	// Certificate is what is shown to peers.
	Certificate *tls.Certificate
}

// ErrBadRequest says that a request for a signature makes no sense.
var ErrBadRequest = errors.New("bad certificate request")

// NewRequest makes a key and a request for a certificate of it. The request names nobody: who it is for is said beside
// it, and judged there.
func NewRequest() (key crypto.Signer, csr []byte, err error) {
	if key, err = newKey(); err != nil {
		return nil, nil, err
	}
	csr, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make certificate request: %w", err)
	}
	return key, csr, nil
}

// Sign certifies the key of a request as id's on a node. Nothing else of the request counts. The chain is in DER, the
// SVID first. A request that is no good is an ErrBadRequest.
func (im *Intermediate) Sign(csr []byte, id ID, node string, now, end time.Time) ([][]byte, error) {
	req, err := x509.ParseCertificateRequest(csr)
	if err == nil {
		err = req.CheckSignature()
	}
	if err == nil {
		err = strong(req.PublicKey)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	end = minTime(end, im.notAfter)
	if !end.After(now) {
		return nil, errors.New("sign SVID: the CA has ended")
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{Organization: []string{organization}},
		NotBefore: now.Add(-min(skew, end.Sub(now))), NotAfter: end,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{id.URL()},
	}
	if node != "" {
		template.Subject.OrganizationalUnit = []string{nodePrefix + node}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, im.cert, req.PublicKey, im.key)
	if err != nil {
		return nil, fmt.Errorf("sign SVID: %w", err)
	}
	chain := [][]byte{der}
	for _, c := range im.chain {
		chain = append(chain, c.Raw)
	}
	return chain, nil
}

func strong(key any) error {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize >= 256 {
			return nil
		}
	case ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if k.N.BitLen() >= 2048 && k.N.BitLen() <= 4096 {
			return nil
		}
	}
	return errors.New("the key is too weak, or of no known kind")
}

// NewSVID puts a signed chain and its key together, after checking that it is what was asked for.
func NewSVID(chain [][]byte, key crypto.Signer, b *Bundle, now time.Time) (*SVID, error) {
	certs, err := parseChain(chain)
	if err != nil {
		return nil, err
	}
	peer, err := Verify(certs, b, now)
	if err != nil {
		return nil, fmt.Errorf("SVID is not good: %w", err)
	}
	if pub, ok := certs[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(key.Public()) {
		return nil, errors.New("SVID is not of the key that was asked for")
	}
	return &SVID{
		ID: peer.ID, Node: peer.Node, NotAfter: peer.NotAfter,
		Certificate: &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: certs[0]},
	}, nil
}

// nodeOf returns the node that the certificate names.
func nodeOf(c *x509.Certificate) string {
	if len(c.Subject.Organization) != 1 || c.Subject.Organization[0] != organization {
		return ""
	}
	for _, unit := range c.Subject.OrganizationalUnit {
		if node, ok := strings.CutPrefix(unit, nodePrefix); ok {
			return node
		}
	}
	return ""
}
