package push

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

// Identities certifies identities.
type Identities interface {
	// Sign certifies the key of a request as a ServiceAccount's, if a pod of that account runs on the peer's node, and
	// the peer's own pod is still there: its token may have been judged some seconds ago. It returns the chain in DER.
	// ErrDenied, wrapped, says that the peer may not have it; after any other error it may ask again.
	Sign(ctx context.Context, peer Peer, namespace, account string, csr []byte) ([][]byte, error)
}

const (
	signMethod = "/tulle.config.v1.Identity/Sign"
	maxCSR     = 8 << 10
	// remember is how long a token that was judged is not judged again for another signature: a proxy that starts asks
	// for some dozens at once, and each review is a call of the API server.
	remember = 30 * time.Second
)

// IdentityServerConfig is what an IdentityServer needs. All but ReauthenticateAfter is required.
type IdentityServerConfig struct {
	// Certificate returns the certificate to show.
	Certificate   func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	Authenticator Authenticator
	Identities    Identities
	Log           *slog.Logger
	// ReauthenticateAfter ends connections; 0 = 1 h.
	ReauthenticateAfter time.Duration
}

// IdentityServer certifies identities to authenticated proxies. It is no part of a Server: who signs is another process
// than who makes config.
type IdentityServer struct {
	config IdentityServerConfig
	judge  judge

	mu     sync.Mutex
	tokens map[string]judgement // by the token, those of a moment ago; at most one for each proxy, and what is over goes

	signed, denied, unauthenticated atomic.Uint64
}

type judgement struct {
	peer  Peer
	until time.Time
}

// NewIdentityServer returns an IdentityServer.
func NewIdentityServer(c IdentityServerConfig) *IdentityServer {
	return &IdentityServer{config: c, judge: newJudge(c.Authenticator), tokens: map[string]judgement{}}
}

// Serve answers proxies on l until ctx ends, and returns when the last answer is given. It is called once.
func (s *IdentityServer) Serve(ctx context.Context, l net.Listener) error {
	g := newGRPC(s.config.Certificate, cmp.Or(s.config.ReauthenticateAfter, time.Hour))
	g.RegisterService(identityService(), s)
	return serveGRPC(ctx, g, l, func() {})
}

// identityService is the service's description, as a generator would write it.
func identityService() *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: "tulle.config.v1.Identity",
		HandlerType: (*signServer)(nil),
		Methods: []grpc.MethodDesc{{
			MethodName: "Sign",
			Handler: func(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				var req configv1.SignRequest
				if err := decode(&req); err != nil {
					return nil, err
				}
				return srv.(signServer).sign(ctx, &req)
			},
		}},
		Metadata: "config.proto",
	}
}

type signServer interface {
	sign(ctx context.Context, req *configv1.SignRequest) (*configv1.SignResponse, error)
}

// sign serves one request. Who asks is who the token says.
func (s *IdentityServer) sign(ctx context.Context, req *configv1.SignRequest) (*configv1.SignResponse, error) {
	peer, err := s.judged(ctx)
	if err != nil {
		if status.Code(err) == codes.Unauthenticated {
			s.unauthenticated.Add(1)
			s.config.Log.Warn("refused a request", "err", err)
		}
		return nil, err
	}
	if len(req.GetCsr()) > maxCSR {
		return nil, status.Error(codes.InvalidArgument, "the request is too large")
	}
	chain, err := s.config.Identities.Sign(ctx, peer, req.GetNamespace(), req.GetServiceAccount(), req.GetCsr())
	switch {
	case errors.Is(err, ErrDenied):
		s.denied.Add(1)
		s.config.Log.Warn("refused an identity", "namespace", req.GetNamespace(), "name", req.GetServiceAccount(),
			"proxy", peer.Pod, "node", peer.Node, "err", err)
		return nil, status.Error(codes.PermissionDenied, err.Error())
	case err != nil:
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	s.signed.Add(1)
	return &configv1.SignResponse{Chain: chain}, nil
}

// judged is who calls, with a short memory.
func (s *IdentityServer) judged(ctx context.Context) (Peer, error) {
	token, err := bearerOf(ctx)
	if err != nil {
		return Peer{}, err
	}
	now := time.Now()
	s.mu.Lock()
	known, ok := s.tokens[token]
	s.mu.Unlock()
	if ok && now.Before(known.until) {
		return known.peer, nil
	}
	peer, err := s.judge.peer(ctx)
	if err != nil {
		return Peer{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for t, j := range s.tokens {
		if !now.Before(j.until) {
			delete(s.tokens, t)
		}
	}
	s.tokens[token] = judgement{peer, now.Add(remember)}
	return peer, nil
}

func (s *IdentityServer) metrics() []metric {
	return []metric{
		{"tulle_identity_signed_total", "Certificates of identities that proxies were given.", prometheus.CounterValue, of(&s.signed)},
		{"tulle_identity_denied_total", "Certificates that proxies asked for and may not have.", prometheus.CounterValue, of(&s.denied)},
		{"tulle_identity_unauthenticated_total", "Requests by who is no proxy.", prometheus.CounterValue, of(&s.unauthenticated)},
	}
}

// Describe makes the IdentityServer a prometheus.Collector.
func (s *IdentityServer) Describe(descs chan<- *prometheus.Desc) {
	prometheus.DescribeByCollect(s, descs)
}

// Collect makes the IdentityServer a prometheus.Collector.
func (s *IdentityServer) Collect(out chan<- prometheus.Metric) { collect(out, s.metrics()) }
