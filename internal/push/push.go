// Package push carries config from the controller to the proxies: a Server that every controller replica runs and a
// Client in every proxy, over Envoy's delta discovery stream on gRPC and TLS 1.3.
//
// A peer is who its token says, never who its requests say: it sees what all proxies share and what is for its own
// pod. Versions are content hashes, so a proxy resumes at any replica and gets only what changed. What a proxy refuses
// is reported and does not hold up the rest. docs/design/push.md says why it is built this way.
//
// Certificates of identities are asked for by calls of their own, of an IdentityServer, which is another process than the
// Servers: what makes config must not be able to certify anybody.
//
// The Server owns two goroutines per stream and a Client the ones that its Run starts; all end before Serve or Run
// return.
package push

import (
	"context"
	"errors"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

// ErrDenied is what an Authenticator returns, wrapped, for a token that is not one of a living proxy pod. Any other
// error means that it could not tell, and the proxy may try again.
var ErrDenied = errors.New("denied")

// Peer is an authenticated proxy pod.
type Peer struct {
	Namespace string
	Pod       string
	UID       string
	Node      string
}

// Authenticator knows the proxies' pods.
type Authenticator interface {
	// Authenticate returns the proxy pod that the bearer token was issued to: of the proxies' own ServiceAccount and
	// audience, alive, its node taken from the pod (a node named in the token must agree).
	Authenticate(ctx context.Context, token string) (Peer, error)
	// Gone returns a channel that is closed once the peer's pod (by UID) is deleted or has ended, at once if that is
	// so already. The end of ctx ends the interest in it.
	Gone(ctx context.Context, peer Peer) <-chan struct{}
}

// Applier takes config into use. It is called by one goroutine.
type Applier interface {
	// Apply takes the whole update into use, at once for its readers, and returns what it could not use. What a refused
	// resource was before stays in use.
	Apply(configv1.Update) []configv1.Refusal
}

// order is the order in which types are sent and asked for: what is pointed at comes before what points at it.
// Removals travel in the opposite order.
func order() []string {
	return []string{
		configv1.MeshType, configv1.TrustBundleType, configv1.NodeProxiesType, configv1.PolicyType, configv1.EndpointsType,
		configv1.ServiceType, configv1.ProxyType,
	}
}
