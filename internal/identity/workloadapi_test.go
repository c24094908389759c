package identity

import (
	"context"
	"crypto/x509"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// agent serves a Workload API on a socket, as SPIRE's agent does.
type agent struct {
	workload.UnimplementedSpiffeWorkloadAPIServer

	mu      sync.Mutex
	current *workload.X509SVIDResponse // nil = nothing is registered
	changed chan struct{}
}

func (a *agent) FetchX509SVID(_ *workload.X509SVIDRequest, stream workload.SpiffeWorkloadAPI_FetchX509SVIDServer) error {
	if md, _ := metadata.FromIncomingContext(stream.Context()); len(md.Get("workload.spiffe.io")) != 1 {
		return status.Error(codes.InvalidArgument, "security header missing from request")
	}
	for {
		a.mu.Lock()
		current, changed := a.current, a.changed
		a.mu.Unlock()
		if current == nil {
			return status.Error(codes.PermissionDenied, "no identity issued")
		}
		if err := stream.Send(current); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}

func (a *agent) set(r *workload.X509SVIDResponse) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.current = r
	close(a.changed)
	a.changed = make(chan struct{})
}

// issue makes what the API answers: SVIDs of the IDs by an issuer, and the roots of all issuers given.
func issue(t *testing.T, now time.Time, ids []ID, by *Issuer, roots ...*Issuer) *workload.X509SVIDResponse {
	t.Helper()
	var bundle []byte
	for _, is := range append(roots, by) {
		bundle = append(bundle, is.cert.Raw...)
	}
	r := &workload.X509SVIDResponse{}
	for _, id := range ids {
		chain, key := sign(t, intermediate(t, by, now, time.Hour), id, "", now, now.Add(time.Hour))
		pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		var der []byte
		for _, c := range chain {
			der = append(der, c...)
		}
		r.Svids = append(r.Svids, &workload.X509SVID{SpiffeId: id.String(), X509Svid: der, X509SvidKey: pkcs8, Bundle: bundle})
	}
	return r
}

func TestWorkloadAPI(t *testing.T) {
	now := time.Now()
	a := &agent{changed: make(chan struct{})}
	socket := filepath.Join(t.TempDir(), "api.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(server, a)
	go func() { _ = server.Serve(l) }()
	defer server.Stop()

	w := NewWorkloadAPI(WorkloadAPIConfig{Addr: "unix://" + socket})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()

	web, proxy := account(t, testDomain, "shop", "web"), account(t, testDomain, "tulle-system", "tulle-proxy")
	short, cancelShort := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancelShort()
	if _, err := w.SVID(short, web); err == nil || w.Bundle() != nil {
		t.Error("has an SVID that nobody issued")
	}

	one, two := newRoot(t, testDomain, now), newRoot(t, testDomain, now)
	a.set(issue(t, now, []ID{web, proxy}, one))
	for _, id := range []ID{web, proxy} {
		svid, err := w.SVID(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		peer, err := ParseAndVerify(svid.Certificate.Certificate, w.Bundle(), now)
		if err != nil || peer.ID != id || peer.Node != "" || svid.Certificate.PrivateKey == nil {
			t.Errorf("%s: %+v, %v", id, peer, err)
		}
	}
	// The root is replaced, and an identity leaves.
	before := w.Bundle()
	a.set(issue(t, now, []ID{proxy}, two, one))
	for deadline := time.After(10 * time.Second); w.Bundle().Sum() == before.Sum(); {
		select {
		case <-time.After(time.Millisecond):
		case <-deadline:
			t.Fatal("the new root never came")
		}
	}
	if n := len(w.Bundle().Roots()); n != 2 {
		t.Errorf("%d roots", n)
	}
	gone, cancelGone := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancelGone()
	if _, err := w.SVID(gone, web); err == nil {
		t.Error("an identity that left has an SVID")
	}
	// The agent goes away: what it gave stays.
	server.Stop()
	if _, err := w.SVID(t.Context(), proxy); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
