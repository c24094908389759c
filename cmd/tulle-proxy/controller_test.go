//go:build linux

package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/push"
)

const (
	podName    = "tulle-proxy-x7k2p"
	serverName = "tulle-controller.tulle-system.svc"
)

// authenticator takes the one token of the tests.
type authenticator struct{}

func (authenticator) Authenticate(_ context.Context, token string) (push.Peer, error) {
	if token != "the token" {
		return push.Peer{}, push.ErrDenied
	}
	return push.Peer{Namespace: "tulle-system", Pod: podName, UID: "1", Node: "node-1"}, nil
}

func (authenticator) Gone(context.Context, push.Peer) <-chan struct{} { return nil }

// fakeController is the controller's end of the config stream and what a proxy needs to trust it.
type fakeController struct {
	*push.Server
	address           string
	caFile, tokenFile string
	stop              func()
}

func startController(t *testing.T) *fakeController {
	t.Helper()
	ca, err := identity.NewCA("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := &fakeController{caFile: filepath.Join(dir, "ca.crt"), tokenFile: filepath.Join(dir, "token")}
	for file, content := range map[string][]byte{c.caFile: ca.CertPEM(), c.tokenFile: []byte("the token\n")} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.Server = push.NewServer(push.ServerConfig{
		Certificate: identity.NewServing(ca, serverName).GetCertificate, Authenticator: authenticator{},
		Log: slog.New(slog.DiscardHandler),
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.address = l.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Serve(ctx, l) }()
	c.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the controller ended with %v", err)
		}
	})
	t.Cleanup(c.stop)
	return c
}

// publish sends the services, each of which has its one port at the same number, and this proxy's own resource.
func (c *fakeController) publish(t *testing.T, inSlices bool, services ...service) {
	t.Helper()
	common := []configv1.Resource{resource(t, "mesh", &configv1.Mesh{Zones: []string{"mesh"}, ClusterDomain: "cluster.local"})}
	for _, s := range services {
		common = append(common, s.resources(t)...)
	}
	own := resource(t, podName, &configv1.Proxy{Node: "node-1", InSlices: inSlices})
	sortResources(common)
	c.Publish(common, map[string][]configv1.Resource{podName: {own}})
}

// service is a meshed HTTP service with one endpoint.
type service struct {
	name    string // in namespace shop
	target  int    // target port, on 127.0.0.1
	backend string // host:port
}

func (s service) resources(t *testing.T) []configv1.Resource {
	t.Helper()
	host, port, err := net.SplitHostPort(s.backend)
	if err != nil {
		t.Fatal(err)
	}
	var number uint32
	if _, err := fmt.Sscan(port, &number); err != nil {
		t.Fatal(err)
	}
	name := "shop/" + s.name
	return []configv1.Resource{
		resource(t, name, &configv1.Service{
			Namespace: "shop", Name: s.name, Addresses: []string{"10.96.0.7"}, BindAddress: "127.0.0.1",
			Ports: []*configv1.Port{{
				Port: 80, Name: "http", Protocol: configv1.Protocol_PROTOCOL_HTTP, TargetPort: uint32(s.target),
				Routes: []*configv1.Route{{Backends: []*configv1.Backend{{Service: name, Port: 80, Weight: 1}}}},
			}},
		}),
		resource(t, name, &configv1.Endpoints{
			Namespace: "shop", Name: s.name,
			Ports: []*configv1.EndpointPort{{Port: 80, Endpoints: []*configv1.Endpoint{{Address: host, Port: number}}}},
		}),
	}
}

func resource(t *testing.T, name string, m proto.Message) configv1.Resource {
	t.Helper()
	r, err := configv1.NewResource(name, m)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
