package push

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

const (
	// maxRequest bounds a request: the versions that a resuming proxy has, about 170 bytes for each resource.
	maxRequest = 16 << 20
	// streamsPerPeer is two, so that a proxy whose connection hangs half-open gets its new one served.
	streamsPerPeer = 2
	// admitting bounds how many streams are brought up to date at once when all proxies come back together: each says
	// what it has, or takes everything, which is megabytes. A proxy that is slow at that gives its place up.
	admitting     = 16
	admissionTime = 5 * time.Second
)

// ServerConfig is what a Server needs. All but Retry and ReauthenticateAfter is required.
type ServerConfig struct {
	// Certificate returns the certificate to show, see identity.Serving.
	Certificate   func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	Authenticator Authenticator
	Log           *slog.Logger
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
	judge   judge
	admits  chan struct{} // a place for each stream that is being brought up to date
	changed chan struct{} // capacity one
	stop    chan struct{} // closed when Serve ends
	workers sync.WaitGroup
	counts  counts

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
		config: config, streams: streams{m: map[*stream]struct{}{}}, judge: newJudge(config.Authenticator),
		admits: make(chan struct{}, admitting), changed: make(chan struct{}, 1), stop: make(chan struct{}),
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
	g := newGRPC(s.config.Certificate, s.config.ReauthenticateAfter)
	discovery.RegisterAggregatedDiscoveryServiceServer(g, s)
	defer s.workers.Wait()
	return serveGRPC(ctx, g, l, func() { close(s.stop) })
}

// Changed signals, with capacity one, that a proxy came or went or that what a proxy refuses changed.
func (s *Server) Changed() <-chan struct{} { return s.changed }

func (s *Server) notify() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}
