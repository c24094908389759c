package identity

import (
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// ID is a SPIFFE ID. The zero value is nobody.
type ID = spiffeid.ID

// TrustDomain is the name that all IDs of a mesh begin with.
type TrustDomain = spiffeid.TrustDomain

// ParseTrustDomain reads the name of a trust domain, e.g. "cluster.local".
func ParseTrustDomain(name string) (TrustDomain, error) {
	td, err := spiffeid.TrustDomainFromString(name)
	if err != nil {
		return TrustDomain{}, fmt.Errorf("trust domain %q: %w", name, err)
	}
	return td, nil
}

// Account returns the ID of a ServiceAccount: spiffe://<trust domain>/ns/<namespace>/sa/<name>.
func Account(td TrustDomain, namespace, name string) (ID, error) {
	id, err := spiffeid.FromSegments(td, "ns", namespace, "sa", name)
	if err != nil {
		return ID{}, fmt.Errorf("identity of ServiceAccount %s/%s: %w", namespace, name, err)
	}
	return id, nil
}

// SplitAccount is the inverse of Account; ok is false for IDs of another form, which are of no ServiceAccount.
func SplitAccount(id ID) (namespace, name string, ok bool) {
	p := strings.Split(id.Path(), "/")
	if len(p) != 5 || p[1] != "ns" || p[3] != "sa" {
		return "", "", false
	}
	return p[2], p[4], true
}
