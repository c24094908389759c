package push

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

const (
	// maxRequest bounds a request: the versions that a resuming proxy has, about 170 bytes for each resource.
	maxRequest = 16 << 20
	// streamsPerPeer is two, so that a proxy whose connection hangs half-open gets its new one served.
	streamsPerPeer = 2
	// authenticating bounds how many tokens are judged at once.
	authenticating = 32
	// admitting bounds how many streams are brought up to date at once when all proxies come back together: each says
	// what it has, or takes everything, which is megabytes. A proxy that is slow at that gives its place up.
	admitting     = 16
	admissionTime = 5 * time.Second
)

// ServerConfig is what a Server needs. All but Identities, Retry and ReauthenticateAfter is required.
type ServerConfig struct {
	// Certificate returns the certificate to show, see identity.Serving.
	Certificate   func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	Authenticator Authenticator
	Log           *slog.Logger
	// Identities certifies identities; nil = nobody does.
	Identities Identities
	// Retry is the first wait until a refused resource is offered again unchanged; 0 = 10 s.
	Retry time.Duration
	// ReauthenticateAfter ends connections so that proxies come back with a fresh token, and spread over the replicas
	// again; 0 = 1 h.
	ReauthenticateAfter time.Duration
}

// Server serves config to authenticated proxies. Its methods may be called by any goroutine.
type Server struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer

	config  ServerConfig
	streams streams
	auth    chan struct{} // a place for each authentication under way
	admits  chan struct{} // a place for each stream that is being brought up to date
	changed chan struct{} // capacity one
	stop    chan struct{} // closed when Serve ends
	workers sync.WaitGroup
	counts  counts
	tokens  tokens

	publishing sync.Mutex // guards making the next snapshot
	maker      maker
	current    atomic.Pointer[snapshot] // nil until the first Publish
}

// NewServer returns a Server that serves nothing until Publish is called.
func NewServer(config ServerConfig) *Server {
	if config.Retry == 0 {
		config.Retry = 10 * time.Second
	}
	if config.ReauthenticateAfter == 0 {
		config.ReauthenticateAfter = time.Hour
	}
	return &Server{
		config: config, streams: streams{m: map[*stream]struct{}{}}, tokens: tokens{m: map[string]judgement{}},
		auth: make(chan struct{}, authenticating), admits: make(chan struct{}, admitting), changed: make(chan struct{}, 1), stop: make(chan struct{}),
	}
}

// Publish replaces what all proxies get (common) and what single proxies get besides (by pod name; its keys are none of
// common's). It returns at once; proxies are sent what changed. Nothing is served before the first Publish: an empty
// config would take the proxies' last good one away.
func (s *Server) Publish(common []configv1.Resource, perProxy map[string][]configv1.Resource) {
	s.publishing.Lock()
	defer s.publishing.Unlock()
	old := s.current.Load()
	next, err := s.maker.next(old, common, perProxy)
	if err != nil {
		s.config.Log.Error("some config cannot be sent and stays what it was", "err", err)
	}
	if old == nil || old.differs(next) {
		s.counts.published.Store(time.Now().UnixNano())
	}
	s.current.Store(next)
	if old != nil {
		close(old.superseded)
	}
}

// Serve accepts proxies on l until ctx ends, and returns when all streams have ended. It is called once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	g := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{
			MinVersion: tls.VersionTLS13, GetCertificate: s.config.Certificate,
		})),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxConcurrentStreams(4*streamsPerPeer),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: 20 * time.Second, Timeout: 10 * time.Second, MaxConnectionIdle: time.Minute,
			MaxConnectionAge: s.config.ReauthenticateAfter, MaxConnectionAgeGrace: time.Second,
		}),
	)
	discovery.RegisterAggregatedDiscoveryServiceServer(g, s)
	g.RegisterService(identityService(), s)
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()

	var err error
	select {
	case <-ctx.Done():
	case err = <-served:
		err = fmt.Errorf("serve config on %s: %w", l.Addr(), err)
	}
	close(s.stop)
	g.Stop()
	s.workers.Wait()
	if errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}

// Changed signals, with capacity one, that a proxy came or went or that what a proxy refuses changed.
func (s *Server) Changed() <-chan struct{} { return s.changed }

func (s *Server) notify() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}
