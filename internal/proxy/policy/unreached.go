package policy

import (
	"errors"

	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// Unreached is the reason to give for an *upstream.DialError.
func Unreached(err error) refusal.Reason {
	switch {
	case errors.Is(err, upstream.ErrNoProxy):
		return refusal.NoProxy
	case errors.Is(err, upstream.ErrNoProof):
		return refusal.NoCertificate
	}
	return refusal.ConnectFailed
}
