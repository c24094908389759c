package push

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

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
	signLimit  = 15 * time.Second
	// remember is how long a token that was judged is not judged again for another signature: a proxy that starts asks
	// for some dozens at once, and each review is a call of the API server.
	remember = 30 * time.Second
	// spare is how long a Signer keeps its connection for the next request.
	spare = 30 * time.Second
)

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
func (s *Server) sign(ctx context.Context, req *configv1.SignRequest) (*configv1.SignResponse, error) {
	peer, err := s.judged(ctx)
	if err != nil {
		s.counts.denied.Add(1)
		return nil, err
	}
	if s.config.Identities == nil {
		return nil, status.Error(codes.Unimplemented, "this controller certifies nobody")
	}
	if len(req.GetCsr()) > maxCSR {
		return nil, status.Error(codes.InvalidArgument, "the request is too large")
	}
	chain, err := s.config.Identities.Sign(ctx, peer, req.GetNamespace(), req.GetServiceAccount(), req.GetCsr())
	switch {
	case errors.Is(err, ErrDenied):
		s.counts.unsigned.Add(1)
		s.config.Log.Warn("refused an identity", "namespace", req.GetNamespace(), "name", req.GetServiceAccount(),
			"proxy", peer.Pod, "node", peer.Node, "err", err)
		return nil, status.Error(codes.PermissionDenied, err.Error())
	case err != nil:
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	s.counts.signed.Add(1)
	return &configv1.SignResponse{Chain: chain}, nil
}

// tokens are those that were judged a moment ago.
type tokens struct {
	mu sync.Mutex
	m  map[string]judgement // by the token; at most one for each proxy, and what is over goes
}

type judgement struct {
	peer  Peer
	until time.Time
}

// judged is authenticate, with a short memory.
func (s *Server) judged(ctx context.Context) (Peer, error) {
	token, err := bearerOf(ctx)
	if err != nil {
		return Peer{}, err
	}
	now := time.Now()
	s.tokens.mu.Lock()
	known, ok := s.tokens.m[token]
	s.tokens.mu.Unlock()
	if ok && now.Before(known.until) {
		return known.peer, nil
	}
	peer, err := s.authenticate(ctx)
	if err != nil {
		return Peer{}, err
	}
	s.tokens.mu.Lock()
	defer s.tokens.mu.Unlock()
	for t, j := range s.tokens.m {
		if !now.Before(j.until) {
			delete(s.tokens.m, t)
		}
	}
	s.tokens.m[token] = judgement{peer, now.Add(remember)}
	return peer, nil
}

// SignerConfig is what a Signer needs; see ClientConfig. All is required.
type SignerConfig struct {
	Addr, ServerName, CAFile, TokenFile string
}

// Signer asks the controller for certificates. It is safe for concurrent use.
type Signer struct {
	config SignerConfig

	mu   sync.Mutex
	conn *grpc.ClientConn // nil while there is none
	used int              // requests under way
	end  *time.Timer      // closes conn
}

// NewSigner returns a Signer. It connects when it is used.
func NewSigner(c SignerConfig) *Signer { return &Signer{config: c} }

// Sign asks for a certificate of a ServiceAccount that runs on this proxy's node. An error is ErrDenied, wrapped, if the
// controller says no. While controllers are replaced some may certify nobody, so that others are asked at once.
func (s *Signer) Sign(ctx context.Context, namespace, account string, csr []byte) (chain [][]byte, err error) {
	for range 4 {
		if chain, err = s.ask(ctx, namespace, account, csr); status.Code(err) != codes.Unimplemented {
			break
		}
	}
	return chain, err
}

func (s *Signer) ask(ctx context.Context, namespace, account string, csr []byte) ([][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, signLimit)
	defer cancel()
	conn, err := s.take()
	if err != nil {
		return nil, err
	}
	var resp configv1.SignResponse
	err = conn.Invoke(ctx, signMethod, &configv1.SignRequest{Namespace: namespace, ServiceAccount: account, Csr: csr}, &resp)
	code := status.Code(err)
	s.give(conn, err == nil || code == codes.PermissionDenied)
	switch {
	case code == codes.PermissionDenied:
		return nil, fmt.Errorf("%w: %s", ErrDenied, status.Convert(err).Message())
	case err != nil:
		return nil, fmt.Errorf("ask %s for a certificate: %w", s.config.Addr, err)
	}
	return resp.GetChain(), nil
}

// take returns the connection that is open, or a new one.
func (s *Signer) take() (*grpc.ClientConn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil {
		conn, err := dial(s.config.Addr, s.config.ServerName, s.config.CAFile, tokenFile(s.config.TokenFile))
		if err != nil {
			return nil, err
		}
		s.conn, s.used = conn, 0
	}
	if s.end != nil {
		s.end.Stop()
		s.end = nil
	}
	s.used++
	return s.conn, nil
}

// give returns it. One that failed isn't used again: another replica, or another CA, may be better.
func (s *Signer) give(conn *grpc.ClientConn, good bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if conn != s.conn {
		return // was replaced, and closed
	}
	s.used--
	if !good {
		s.conn = nil
		conn.Close()
		return
	}
	if s.used == 0 {
		s.end = time.AfterFunc(spare, func() { s.drop(conn) })
	}
}

func (s *Signer) drop(conn *grpc.ClientConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == conn && s.used == 0 {
		s.conn = nil
		conn.Close()
	}
}

// Close closes the connection.
func (s *Signer) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

// tokenFile is a token that is read from its file for each call, and sent over TLS only.
type tokenFile string

func (f tokenFile) GetRequestMetadata(ctx context.Context, uri ...string) (map[string]string, error) {
	token, err := os.ReadFile(string(f))
	if err != nil {
		return nil, fmt.Errorf("read token: %w", err)
	}
	return bearer(strings.TrimSpace(string(token))).GetRequestMetadata(ctx, uri...)
}

func (tokenFile) RequireTransportSecurity() bool { return true }
