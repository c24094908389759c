package push

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

// newGRPC makes a server for proxies. Connections end after age, so that proxies come back with a fresh token, and spread
// over the replicas again.
func newGRPC(certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error), age time.Duration) *grpc.Server {
	return grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: certificate})),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxConcurrentStreams(4*streamsPerPeer),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: 20 * time.Second, Timeout: 10 * time.Second, MaxConnectionIdle: time.Minute,
			MaxConnectionAge: age, MaxConnectionAgeGrace: time.Second,
		}),
	)
}

// serveGRPC serves l until ctx ends. stopping is called then, before calls under way are waited for.
func serveGRPC(ctx context.Context, g *grpc.Server, l net.Listener, stopping func()) error {
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	var err error
	select {
	case <-ctx.Done():
	case err = <-served:
		err = fmt.Errorf("serve proxies on %s: %w", l.Addr(), err)
	}
	stopping()
	g.Stop()
	if errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}
