package push

import (
	"context"
	"crypto/tls"
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

const (
	signLimit = 15 * time.Second
	// spare is how long a Signer keeps its connection for the next request.
	spare = 30 * time.Second
)

// SignerConfig is what a Signer needs. All is required.
type SignerConfig struct {
	Addr      string // host:port
	TokenFile string // the token that says who asks, read for each request
	// TLS says for each connection whom to believe to be the server. It must not be believed without.
	TLS func() (*tls.Config, error)
}

// Signer asks an IdentityServer for certificates. It is safe for concurrent use.
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
// server says no.
func (s *Signer) Sign(ctx context.Context, namespace, account string, csr []byte) ([][]byte, error) {
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
		config, err := s.config.TLS()
		if err != nil {
			return nil, err
		}
		conn, err := dial(s.config.Addr, config, tokenFile(s.config.TokenFile))
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
