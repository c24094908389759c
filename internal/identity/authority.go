package identity

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// AuthorityConfig is what an Authority needs. TrustDomain is required.
type AuthorityConfig struct {
	TrustDomain TrustDomain
	Name        string        // of this replica, for its intermediate
	Life        time.Duration // of SVIDs; default 1 h
	// Spread is how long a new root is in the bundle before anything is signed by it: by then proxies have it. Default
	// 5 min.
	Spread time.Duration
	// IntermediateLife is at least four times Life; default 24 h.
	IntermediateLife time.Duration
}

// Keep is how long a root stays trusted after it went out of use: until then other replicas may sign by it, and what
// they sign lasts.
func (c AuthorityConfig) Keep() time.Duration { return c.Life + 2*c.Spread + skew }

func (c AuthorityConfig) withDefaults() AuthorityConfig {
	c.Life, c.Spread = cmp.Or(c.Life, time.Hour), cmp.Or(c.Spread, 5*time.Minute)
	c.IntermediateLife = max(cmp.Or(c.IntermediateLife, 24*time.Hour), 4*c.Life)
	return c
}

// Authority signs SVIDs on one replica, by an intermediate of its own. It is safe for concurrent use.
type Authority struct {
	config AuthorityConfig

	mu      sync.Mutex
	record  Record
	signers []*signer // the newest first
	own     own
}

// signer is an issuer, as long as it may sign.
type signer struct {
	issuer       *Issuer
	intermediate *Intermediate // nil until it is needed
}

// ErrNotReady says that nothing can be signed just now: there is no CA yet, or it is so new that not all proxies trust
// it. Asking again later helps.
var ErrNotReady = errors.New("no CA is ready to sign")

// NewAuthority returns an Authority that can't sign anything before Update.
func NewAuthority(c AuthorityConfig) *Authority {
	return &Authority{config: c.withDefaults()}
}

// Config returns the configuration with its defaults.
func (a *Authority) Config() AuthorityConfig { return a.config }

// Update tells the Authority which roots are trusted, and by which issuers it may sign, the preferred one first. Those
// that it was given before go on signing while their roots are trusted and no preferred one is ready.
func (a *Authority) Update(record Record, issuers ...*Issuer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.record = record
	var next []*signer
	for _, is := range issuers {
		next = append(next, a.signerOf(is))
	}
	for _, s := range a.signers {
		if !slices.Contains(next, s) && a.trust(s.issuer) != nil {
			next = append(next, s)
		}
	}
	a.signers = next
}

func (a *Authority) signerOf(is *Issuer) *signer {
	for _, s := range a.signers {
		if s.issuer.Equal(is) {
			return s
		}
	}
	return &signer{issuer: is}
}

// trust returns the record's word on the issuer's roots that is the most lasting, nil if they are not trusted.
func (a *Authority) trust(is *Issuer) *Trusted {
	var best *Trusted
	for i, t := range a.record {
		if !slices.ContainsFunc(is.roots, t.Cert.Equal) {
			continue
		}
		if best == nil || t.Until.IsZero() && !best.Until.IsZero() || t.Until.IsZero() == best.Until.IsZero() && t.Since.Before(best.Since) {
			best = &a.record[i]
		}
	}
	return best
}

// Bundle returns what is trusted; nil before the first Update.
func (a *Authority) Bundle() *Bundle {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.record) == 0 {
		return nil
	}
	b, err := NewBundle(a.config.TrustDomain, a.record.Certificates())
	if err != nil {
		return nil
	}
	return b
}

// Sign certifies the key of a request as a ServiceAccount's on a node. Whether the asker may have it is the caller's
// business. Its errors are ErrNotReady, ErrBadRequest or failures.
func (a *Authority) Sign(csr []byte, namespace, account, node string, now time.Time) ([][]byte, error) {
	id, err := Account(a.config.TrustDomain, namespace, account)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	im, end, err := a.ready(now, a.config.Spread)
	if err != nil {
		return nil, err
	}
	return im.Sign(csr, id, node, now, end)
}

// ready returns what to sign with now, by a root that has been trusted for as long as spread, and when SVIDs are to end.
func (a *Authority) ready(now time.Time, spread time.Duration) (*Intermediate, time.Time, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.signers {
		t := a.trust(s.issuer)
		if !trusted(t, now, spread) {
			continue
		}
		end := now.Add(a.config.Life)
		if !t.Until.IsZero() {
			end = minTime(end, t.Until)
		}
		if err := a.renew(s, now); err != nil {
			return nil, time.Time{}, err
		}
		if s.intermediate.notAfter.After(now) && end.After(now) {
			return s.intermediate, end, nil
		}
	}
	return nil, time.Time{}, ErrNotReady
}

// trusted says whether whoever is to trust a root has had the time to learn of it.
func trusted(t *Trusted, now time.Time, spread time.Duration) bool {
	return t != nil && (t.Since.IsZero() || !now.Before(t.Since.Add(spread)))
}

// renew sees to it that the signer's intermediate outlasts what it signs, if the issuer can do that.
func (a *Authority) renew(s *signer, now time.Time) error {
	if s.intermediate != nil && now.Add(a.config.IntermediateLife/2).Before(s.intermediate.notAfter) {
		return nil
	}
	if s.intermediate != nil && !s.issuer.NotAfter().After(s.intermediate.notAfter) {
		return nil // it ends with its issuer already
	}
	im, err := s.issuer.Intermediate(a.config.Name, now, a.config.IntermediateLife)
	if err != nil {
		return err
	}
	s.intermediate = im
	return nil
}

// Ends is when the CA that signs now ends, and with it the mesh's identities; zero if nothing can be signed.
func (a *Authority) Ends(now time.Time) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.signers {
		if trusted(a.trust(s.issuer), now, a.config.Spread) {
			return s.issuer.NotAfter()
		}
	}
	return time.Time{}
}
