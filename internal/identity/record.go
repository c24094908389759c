package identity

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Trusted is a root and for how long it is trusted.
type Trusted struct {
	Cert *x509.Certificate
	// Since is when the root was added; zero for those that were there from the beginning.
	Since time.Time
	// Until is when it is dropped; zero while something may be signed by it.
	Until time.Time
}

// Record is which roots are trusted, the oldest first: those in use, and those that were while their SVIDs last. It
// outlives the CA, so that whoever replaces the CA does not cut off what was signed before.
type Record []Trusted

// Next returns the record when the roots in use are those of current: new ones are added, others are dropped keep after
// they went out of use, and at the end of their own life.
func (r Record) Next(current []*x509.Certificate, now time.Time, keep time.Duration) Record {
	var next Record
	for _, t := range r {
		used := slices.ContainsFunc(current, t.Cert.Equal)
		switch {
		case used:
			t.Until = time.Time{}
		case t.Until.IsZero():
			t.Until = now.Add(keep)
		}
		if now.After(t.Cert.NotAfter) || !used && now.After(t.Until) {
			continue
		}
		next = append(next, t)
	}
	for _, c := range current {
		if slices.ContainsFunc(next, func(t Trusted) bool { return t.Cert.Equal(c) }) || now.After(c.NotAfter) {
			continue
		}
		t := Trusted{Cert: c, Since: now}
		if len(r) == 0 {
			t.Since = time.Time{} // nobody trusts anything else yet
		}
		next = append(next, t)
	}
	return next
}

// Merge returns the record with what only o knows.
func (r Record) Merge(o Record) Record {
	next := slices.Clone(r)
	for _, t := range o {
		if !slices.ContainsFunc(next, func(n Trusted) bool { return n.Cert.Equal(t.Cert) }) {
			next = append(next, t)
		}
	}
	return next
}

// Equal says whether both records are the same.
func (r Record) Equal(o Record) bool {
	return slices.EqualFunc(r, o, func(a, b Trusted) bool {
		return a.Cert.Equal(b.Cert) && a.Since.Equal(b.Since) && a.Until.Equal(b.Until)
	})
}

// Certificates are the roots.
func (r Record) Certificates() []*x509.Certificate {
	out := make([]*x509.Certificate, 0, len(r))
	for _, t := range r {
		out = append(out, t.Cert)
	}
	return out
}

// PEM is the roots for people and programs that want no more.
func (r Record) PEM() []byte { return encodePEM(r.Certificates()) }

// written is a Trusted as JSON.
type written struct {
	Cert  string     `json:"cert"`
	Since *time.Time `json:"since,omitempty"`
	Until *time.Time `json:"until,omitempty"`
}

// Encode writes the record down.
func (r Record) Encode() ([]byte, error) {
	list := make([]written, 0, len(r))
	for _, t := range r {
		list = append(list, written{string(encodePEM([]*x509.Certificate{t.Cert})), pointer(t.Since), pointer(t.Until)})
	}
	b, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode trusted roots: %w", err)
	}
	return b, nil
}

// DecodeRecord reads what Encode wrote; nothing is an empty record.
func DecodeRecord(text []byte) (Record, error) {
	if strings.TrimSpace(string(text)) == "" {
		return nil, nil
	}
	var list []written
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("decode trusted roots: %w", err)
	}
	var r Record
	for _, w := range list {
		certs, err := parsePEM([]byte(w.Cert))
		if err != nil || len(certs) != 1 {
			return nil, fmt.Errorf("decode trusted roots: want one certificate, have %d (%w)", len(certs), err)
		}
		r = append(r, Trusted{Cert: certs[0], Since: value(w.Since), Until: value(w.Until)})
	}
	return r, nil
}

func pointer(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func value(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}
