package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/anypb"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

const (
	pushPort = 15010
	signPort = 15012 // of tulle-identity
)

// configTypes are what a proxy subscribes to, in its order.
func configTypes() []string {
	return []string{configv1.MeshType, configv1.EndpointsType, configv1.ServiceType, configv1.ProxyType}
}

// streamConfig is what it takes to open a config stream.
type streamConfig struct {
	dial  func(context.Context) (net.Conn, error)
	roots *x509.CertPool // by which controllers are known
	tls   *tls.Config    // whom to believe instead, if it is no controller
	token string         // "" = none
}

// stream is a config stream made by hand: it can do what a proxy never would. It belongs to one goroutine.
type stream struct {
	ads  discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	node string // what the requests say, which is not to be believed
}

// connect makes a connection to a controller, or to tulle-identity.
func (c streamConfig) connect() (*grpc.ClientConn, error) {
	if c.tls == nil {
		c.tls = &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: c.roots, ServerName: "tulle-controller." + meshNamespace + ".svc"}
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(c.tls)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return c.dial(ctx) }),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16 << 20)),
	}
	if c.token != "" {
		options = append(options, grpc.WithPerRPCCredentials(bearer(c.token)))
	}
	return grpc.NewClient("passthrough:///controller", options...)
}

// openStream opens a stream that ends with ctx. Whether it is served shows when something is received.
func openStream(ctx context.Context, c streamConfig) (*stream, error) {
	conn, err := c.connect()
	if err != nil {
		return nil, err
	}
	ads, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		conn.Close()
		return nil, err
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	return &stream{ads: ads}, nil
}

// bearer is a token that is sent over TLS only.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

// subscribe asks for a type, as a whole unless names are given.
func (s *stream) subscribe(typ string, names ...string) error {
	if len(names) == 0 {
		names = []string{"*"}
	}
	return s.ads.Send(&discovery.DeltaDiscoveryRequest{Node: &core.Node{Id: s.node}, TypeUrl: typ, ResourceNamesSubscribe: names})
}

func (s *stream) subscribeAll() error {
	for _, typ := range configTypes() {
		if err := s.subscribe(typ); err != nil {
			return err
		}
	}
	return nil
}

// run answers what comes, until the stream ends; handle says what of it is refused, nil = nothing.
func (s *stream) run(handle func(*discovery.DeltaDiscoveryResponse) []*configv1.Rejection) error {
	for {
		resp, err := s.ads.Recv()
		if err != nil {
			return err
		}
		req := &discovery.DeltaDiscoveryRequest{TypeUrl: resp.GetTypeUrl(), ResponseNonce: resp.GetNonce()}
		if refused := handle(resp); len(refused) > 0 {
			detail, err := anypb.New(&configv1.Rejections{Rejections: refused})
			if err != nil {
				return fmt.Errorf("encode refusals: %w", err)
			}
			req.ErrorDetail = &rpcstatus.Status{Code: int32(codes.InvalidArgument), Message: refused[0].GetReason(), Details: []*anypb.Any{detail}}
		}
		if err := s.ads.Send(req); err != nil {
			_, err = s.ads.Recv() // which says why
			return err
		}
	}
}
