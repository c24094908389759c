package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"sync"
	"time"
)

// servingLife is how long a serving certificate lasts; a new one is made at half of it.
const servingLife = 24 * time.Hour

// ServingCertificate signs a certificate with a new key for a server of the given DNS names and IP literals.
func (ca *CA) ServingCertificate(names []string, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make serving key: %w", err)
	}
	template := &x509.Certificate{
		NotBefore: now.Add(-skew), NotAfter: minTime(now.Add(servingLife), ca.cert.NotAfter),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return nil, fmt.Errorf("sign serving certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("sign serving certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// Serving holds the serving certificate of one server and renews it when half its life is over, at the next handshake.
type Serving struct {
	ca    *CA
	names []string

	mu   sync.Mutex
	cert *tls.Certificate
}

// NewServing returns the certificates of a server of the given DNS names and IP literals.
func NewServing(ca *CA, names ...string) *Serving {
	return &Serving{ca: ca, names: names}
}

// GetCertificate is for tls.Config.
func (s *Serving) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return s.at(time.Now())
}

func (s *Serving) at(now time.Time) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cert != nil {
		half := s.cert.Leaf.NotBefore.Add(s.cert.Leaf.NotAfter.Sub(s.cert.Leaf.NotBefore) / 2)
		if now.Before(half) {
			return s.cert, nil
		}
	}
	cert, err := s.ca.ServingCertificate(s.names, now)
	if err != nil {
		return nil, err
	}
	s.cert = cert
	return cert, nil
}
