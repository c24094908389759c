package route

import (
	"math"
	"strings"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy/balance"
	"github.com/tulle-mesh/tulle/internal/proxy/share"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// Tunnelled is who calls what through another node's proxy. That one has chosen the pod; this one judges.
type Tunnelled struct {
	// Caller has proved who it is; nil if it is nobody.
	Caller *Caller
	// Valid says that the proof still holds.
	Valid func() bool
	Port  *Port
	Share *share.Account // that bytes count for which are buffered for the caller
	// Used is told of every request. A proxy that stops waits until others have none for it any more.
	Used func()
}

// To makes the port that leads to one endpoint, in the way that u says. It has no limits of its own: the caller's proxy
// keeps to those of the service that was called.
func To(e *upstream.Endpoint, u upstream.Use, p configv1.Protocol) *Port {
	namespace, short, _ := strings.Cut(u.Service, "/")
	b := &Backend{Service: u.Service, Port: u.Port, Weight: 1, Scheme: u.Scheme, Endpoints: upstream.Only(e)}
	return &Port{
		Service: &Service{Name: u.Service, Namespace: namespace, Short: short, Guard: unguarded()},
		Number:  u.Port, Protocol: p, IdleTimeout: unlimited, EncodedSlash: u.EncodedSlash,
		Routes: []*Route{{Backends: []*Backend{b}, turns: balance.NewWeighted([]uint32{1})}},
	}
}

// unguarded is a Guard that lets all pass, but for retries.
func unguarded() *Guard { return &Guard{retries: &balance.Budget{}} }

const unlimited = time.Duration(math.MaxInt64 / 2)
