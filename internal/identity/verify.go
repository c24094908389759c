package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Reason says why a peer's certificates prove nothing.
type Reason string

// The reasons.
const (
	NoCertificate    Reason = "no-certificate"
	Malformed        Reason = "malformed"          // not an X.509-SVID: none or several URI SANs, a NUL in one, a CA
	WrongTrustDomain Reason = "wrong-trust-domain" // an SVID of somebody else's
	Expired          Reason = "expired"
	NotYetValid      Reason = "not-yet-valid"
	Untrusted        Reason = "untrusted" // no chain to a root of the bundle
)

// PeerError is why certificates were refused.
type PeerError struct {
	Reason Reason
	Err    error // may be nil
}

func (e *PeerError) Error() string {
	if e.Err == nil {
		return string(e.Reason)
	}
	return fmt.Sprintf("%s: %v", e.Reason, e.Err)
}

func (e *PeerError) Unwrap() error { return e.Err }

// Peer is who certificates prove to be.
type Peer struct {
	ID ID
	// Node is where the identity ran when it was certified, and whose proxy it was certified to. It is empty if the
	// certificate doesn't say so, as those of SPIRE don't.
	Node string
	// NotAfter is when the first certificate of the chain ends.
	NotAfter time.Time
}

// maxChain is more than any honest chain has.
const maxChain = 8

// Verify says who the certificates prove their owner to be, the leaf first. Its errors are *PeerError.
func Verify(certs []*x509.Certificate, b *Bundle, now time.Time) (Peer, error) {
	if len(certs) == 0 {
		return Peer{}, &PeerError{NoCertificate, nil}
	}
	if len(certs) > maxChain {
		return Peer{}, &PeerError{Malformed, errors.New("the chain is too long")}
	}
	leaf := certs[0]
	id, err := x509svid.IDFromCert(leaf)
	switch {
	case err != nil:
		return Peer{}, &PeerError{Malformed, err}
	case id.Path() == "" || leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return Peer{}, &PeerError{Malformed, errors.New("not the certificate of a workload")}
	case !id.MemberOf(b.domain):
		return Peer{}, &PeerError{WrongTrustDomain, fmt.Errorf("%s is not of %s", id, b.domain)}
	case now.Before(leaf.NotBefore):
		return Peer{}, &PeerError{NotYetValid, fmt.Errorf("%s is valid from %v on", id, leaf.NotBefore)}
	case now.After(leaf.NotAfter):
		return Peer{}, &PeerError{Expired, fmt.Errorf("%s ended at %v", id, leaf.NotAfter)}
	}
	_, chains, err := x509svid.Verify(certs, b.set, x509svid.WithTime(now))
	if err != nil {
		return Peer{}, &PeerError{reasonOf(err), err}
	}
	return Peer{ID: id, Node: nodeOf(leaf), NotAfter: lastsUntil(chains)}, nil
}

// ParseAndVerify is Verify for certificates as TLS gives them.
func ParseAndVerify(der [][]byte, b *Bundle, now time.Time) (Peer, error) {
	certs, err := parseChain(der)
	if err != nil {
		return Peer{}, &PeerError{Malformed, err}
	}
	return Verify(certs, b, now)
}

// reasonOf looks at why a chain isn't good: an intermediate or a root may have ended, too.
func reasonOf(err error) Reason {
	if invalid := (x509.CertificateInvalidError{}); errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return Expired
	}
	return Untrusted
}

// lastsUntil returns when the chain that lasts longest ends.
func lastsUntil(chains [][]*x509.Certificate) time.Time {
	var last time.Time
	for _, chain := range chains {
		end := chain[0].NotAfter
		for _, c := range chain[1:] {
			end = minTime(end, c.NotAfter)
		}
		if end.After(last) {
			last = end
		}
	}
	return last
}
