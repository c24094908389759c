package identity

import (
	"crypto"
	"crypto/tls"
	"fmt"
	"time"
)

// mounted is how long pods that mount the roots may take to see a new one: the kubelet looks every minute to minute and a
// half.
const mounted = 3 * time.Minute

// own is the certificate by which an Authority itself is known. It is guarded by the Authority's mutex.
type own struct {
	id    ID
	cert  *tls.Certificate
	by    *Intermediate
	renew time.Time
}

// Certificate returns the certificate by which this replica itself is known, as a ServiceAccount's. It is by the mesh's own
// CA, and says no node: what is signed for proxies always does, so that nobody who was given that account's SVID can pass
// for an Authority. It is new at half of its life. A new root signs it once pods have it mounted, or earlier if nothing else
// can. If there is no CA the error is ErrNotReady.
func (a *Authority) Certificate(namespace, account string, now time.Time) (*tls.Certificate, error) {
	id, err := Account(a.config.TrustDomain, namespace, account)
	if err != nil {
		return nil, err
	}
	im, end, err := a.ready(now, max(a.config.Spread, mounted))
	if err != nil {
		im, end, err = a.ready(now, 0)
	}
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.own.id == id && a.own.by == im && now.Before(a.own.renew) {
		return a.own.cert, nil
	}
	key, csr, err := NewRequest()
	if err != nil {
		return nil, err
	}
	chain, err := im.Sign(csr, id, "", now, end)
	if err != nil {
		return nil, err
	}
	cert := &tls.Certificate{Certificate: chain, PrivateKey: crypto.PrivateKey(key)}
	a.own = own{id: id, cert: cert, by: im, renew: now.Add(end.Sub(now) / 2)}
	return cert, nil
}

// Expect is how a client sees to it that it talks to the Authority: to who shows an SVID of id that is of no node's proxy.
func Expect(b *Bundle, id ID) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true,
		InsecureSkipVerify: true, //nolint:gosec // SVIDs carry no host names: VerifyConnection is what verifies
		VerifyConnection: func(s tls.ConnectionState) error {
			peer, err := Verify(s.PeerCertificates, b, time.Now())
			switch {
			case err != nil:
				return err
			case peer.ID != id:
				return fmt.Errorf("%s answers, not %s", peer.ID, id)
			case peer.Node != "":
				return fmt.Errorf("the certificate of %s was issued to the proxy of node %s", id, peer.Node)
			}
			return nil
		},
	}
}

// ParseRoots reads the roots of a trust domain from PEM, as the ConfigMap has them.
func ParseRoots(td TrustDomain, pem []byte) (*Bundle, error) {
	roots, err := parsePEM(pem)
	if err != nil {
		return nil, fmt.Errorf("read roots: %w", err)
	}
	return NewBundle(td, roots)
}
