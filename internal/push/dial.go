package push

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

// maxResponse is what a client takes: one resource of the largest size that a server sends, or a chunk of small ones.
const maxResponse = maxResource + chunkBytes + 1<<20

// connect opens a stream and follows it to its end. It reports whether the controller answered at all.
func (c *Client) connect(ctx context.Context) (answered bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	token, err := os.ReadFile(c.config.TokenFile)
	if err != nil {
		return false, fmt.Errorf("read token: %w", err)
	}
	config, err := byCA(c.config.CAFile, c.config.ServerName)
	if err != nil {
		return false, err
	}
	conn, err := dial(c.config.Addr, config, bearer(strings.TrimSpace(string(token))))
	if err != nil {
		return false, err
	}
	defer conn.Close()
	ads, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return false, fmt.Errorf("open config stream to %s: %w", c.config.Addr, err)
	}
	f := newFollower(c, ads)
	if err := f.follow(); err != nil {
		return f.answered, fmt.Errorf("config stream to %s: %w", c.config.Addr, err)
	}
	return f.answered, nil
}

// byCA is whom a proxy takes for a controller: who shows a certificate for the name by the CA of this moment. There is no
// way around it.
func byCA(caFile, serverName string) (*tls.Config, error) {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("read CA: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read CA: no certificate in %s", caFile)
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: serverName}, nil
}

// dial makes a connection, with the token of this moment.
func dial(addr string, config *tls.Config, token credentials.PerRPCCredentials) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithPerRPCCredentials(token),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", addr)
		}),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxResponse)),
		// A replica that hangs is left within 15 s (gRPC pings no more often than this), about when another one leads.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
	)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	return conn, nil
}

// bearer is a token that is sent over TLS only.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }
