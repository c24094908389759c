package push

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/identity"
)

// open opens a stream with no Client behind it.
func open(t *testing.T, ca *identity.CA, addr, token string) clientStream {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.CertPEM())
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(
		credentials.NewTLS(&tls.Config{RootCAs: pool, ServerName: serverName})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	ads, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return ads
}

// ask subscribes to a type, saying to be the node that is named.
func ask(t *testing.T, ads clientStream, node, typ string, names ...string) {
	t.Helper()
	err := ads.Send(&discovery.DeltaDiscoveryRequest{
		Node: &core.Node{Id: node}, TypeUrl: typ, ResourceNamesSubscribe: names,
	})
	if err != nil {
		t.Fatal(err)
	}
}

func recv(t *testing.T, ads clientStream) *discovery.DeltaDiscoveryResponse {
	t.Helper()
	resp, err := ads.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// endCode reads a stream to its end and returns why it ended.
func endCode(ads clientStream) codes.Code {
	for {
		if _, err := ads.Recv(); err != nil {
			return status.Code(err)
		}
	}
}

func TestPeersAreApart(t *testing.T) {
	ca := newCA(t)
	s := serve(t, ca)
	s.Publish(nil, map[string][]configv1.Resource{"p1": proxyFor(t, "p1", true), "p2": proxyFor(t, "p2", true)})

	// To say that one is another gives nothing of that other.
	ads := open(t, ca, s.addr, "token-p1")
	ask(t, ads, "p2", configv1.ProxyType, "*")
	if got := recv(t, ads).GetResources(); len(got) != 1 || got[0].GetName() != "p1" {
		t.Errorf("p1 that says it is p2 got %v", got)
	}
	// To ask for another's ends the stream.
	ask(t, ads, "p1", configv1.ProxyType, "p2")
	if got := endCode(ads); got != codes.PermissionDenied {
		t.Errorf("asking for another's config ended with %v", got)
	}
	eventually(t, "the refusal is counted", func() bool { return s.counts.denied.Load() == 1 })
	// So does asking for it along with one's own, at first.
	ads = open(t, ca, s.addr, "token-p1")
	ask(t, ads, "p1", configv1.ProxyType, "p1", "p2")
	if got := endCode(ads); got != codes.PermissionDenied {
		t.Errorf("asking for one's own and another's config ended with %v", got)
	}
}

func TestCallersThatAreRefused(t *testing.T) {
	ca := newCA(t)
	s := serve(t, ca)
	s.Publish(config(t, 1, 0), nil)
	for name, token := range map[string]string{"no token": "", "another's token": "web-app"} {
		if got := endCode(open(t, ca, s.addr, token)); got != codes.Unauthenticated {
			t.Errorf("%s ended with %v", name, got)
		}
	}
	if n := len(s.Connections()); n != 0 {
		t.Errorf("%d connections", n)
	}

	// That tokens cannot be judged just now is another thing: the proxy tries again.
	s.pods.mu.Lock()
	s.pods.down = true
	s.pods.mu.Unlock()
	if got := endCode(open(t, ca, s.addr, "token-p1")); got != codes.Unavailable {
		t.Errorf("without an API server it ended with %v", got)
	}
}

func TestOnlyTLS13(t *testing.T) {
	ca := newCA(t)
	s := serve(t, ca)
	s.Publish(nil, nil)
	conn, err := tls.Dial("tcp", s.addr, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
	if err == nil {
		conn.Close()
		t.Error("TLS 1.2 was taken")
	}
	plain, err := grpc.NewClient("passthrough:///"+s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	ads, err := discovery.NewAggregatedDiscoveryServiceClient(plain).DeltaAggregatedResources(t.Context())
	if err == nil {
		_, err = ads.Recv()
	}
	if err == nil {
		t.Error("plaintext was taken")
	}
}

func TestNothingBeforeTheFirstPublish(t *testing.T) {
	ca := newCA(t)
	s := serve(t, ca)
	if got := endCode(open(t, ca, s.addr, "token-p1")); got != codes.Unavailable {
		t.Errorf("a replica without config ended with %v", got)
	}
	if got := s.Connections(); len(got) != 0 {
		t.Errorf("connections %v", got)
	}
}

func TestStreamEndsWithThePod(t *testing.T) {
	ca := newCA(t)
	s := serve(t, ca)
	s.Publish(config(t, 1, 0), nil)
	ads := open(t, ca, s.addr, "token-p1")
	ask(t, ads, "", configv1.MeshType)
	recv(t, ads)
	s.pods.delete("p1")
	if got := endCode(ads); got != codes.Unauthenticated {
		t.Errorf("ended with %v", got)
	}
	// One that comes back with the token of a pod that is gone is ended as well.
	if got := endCode(open(t, ca, s.addr, "token-p1")); got != codes.Unauthenticated {
		t.Errorf("the second stream ended with %v", got)
	}
	eventually(t, "no connection is left", func() bool { return len(s.Connections()) == 0 })
}

// A proxy that reads nothing holds up nobody, and its stream ends with its pod though sending to it is blocked.
func TestProxyThatDoesNotRead(t *testing.T) {
	ca := newCA(t)
	s := serve(t, ca)
	common := config(t, 4000, 0)
	s.Publish(common, nil)
	stuck := open(t, ca, s.addr, "token-stuck")
	for _, typ := range order() {
		ask(t, stuck, "", typ)
	}
	p1 := run(t, ca, s.addr, "p1")
	wait(t, "synced", p1.Synced())
	for rev := range uint32(3) {
		common[1] = resource(t, "shop/web-0", endpoints("web-0", 100+rev))
		s.Publish(common, nil)
		eventually(t, "the other proxy goes on", has(p1, common))
	}
	if c := connection(t, s, "stuck"); c.Acked != "" || c.Version != connection(t, s, "p1").Version {
		t.Errorf("the stuck connection is %+v", c)
	}
	s.pods.delete("stuck")
	eventually(t, "the stuck stream is gone", func() bool { return len(s.Connections()) == 1 })
	s.stop() // waits for the goroutine that was sending
}

func connection(t *testing.T, s *replica, pod string) Connection {
	t.Helper()
	for _, c := range s.Connections() {
		if c.Peer.Pod == pod {
			return c
		}
	}
	t.Fatalf("%s is not connected", pod)
	return Connection{}
}

// Proxies that know fewer types than the server, as during an upgrade, do not hold up the others that come with them.
func TestOlderProxiesComeTogether(t *testing.T) {
	ca := newCA(t)
	s := serve(t, ca)
	s.Publish(config(t, 1, 0), nil)
	start := time.Now()
	for i := range 2 * admitting {
		ads := open(t, ca, s.addr, fmt.Sprint("token-p", i))
		ask(t, ads, "", configv1.MeshType)
		resp := recv(t, ads)
		err := ads.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: resp.GetTypeUrl(), ResponseNonce: resp.GetNonce()})
		if err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(start); took > admissionTime {
		t.Errorf("it took %v", took)
	}
}

func TestStreamsPerPeer(t *testing.T) {
	ca := newCA(t)
	s := serve(t, ca)
	s.Publish(config(t, 1, 0), nil)
	var streams []clientStream
	for range streamsPerPeer + 2 {
		ads := open(t, ca, s.addr, "token-p1")
		ask(t, ads, "", configv1.MeshType)
		recv(t, ads)
		streams = append(streams, ads)
	}
	for _, ads := range streams[:2] {
		if got := endCode(ads); got != codes.Aborted {
			t.Errorf("an old stream ended with %v", got)
		}
	}
	eventually(t, "the newest are left", func() bool { return len(s.Connections()) == streamsPerPeer })
	last := streams[len(streams)-1]
	ask(t, last, "", configv1.ServiceType)
	if got := recv(t, last).GetTypeUrl(); got != configv1.ServiceType {
		t.Errorf("the newest stream answered for %q", got)
	}
}

func TestLogsAndErrorsCarryNoToken(t *testing.T) {
	ca := newCA(t)
	var log syncBuffer
	s := serve(t, ca, func(c *ServerConfig) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	s.Publish(nil, nil)
	ads := open(t, ca, s.addr, "secret-token")
	_, err := ads.Recv()
	if err == nil || strings.Contains(err.Error(), "secret-token") || strings.Contains(log.String(), "secret-token") {
		t.Errorf("err %v, log %s", err, log.String())
	}
	if log.String() == "" {
		t.Error("a refused stream is not logged")
	}
}

// syncBuffer is a buffer for several goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
