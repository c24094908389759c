package identity

import (
	"context"
	"crypto/x509"
	"net"
	"path/filepath"
	"strings"
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

// serveAgent serves a Workload API until the test ends, or stop is called, and follows it.
func serveAgent(t *testing.T, ended func(map[ID]bool)) (a *agent, w *WorkloadAPI, stop func()) {
	t.Helper()
	a = &agent{changed: make(chan struct{})}
	socket := filepath.Join(t.TempDir(), "api.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(server, a)
	go func() { _ = server.Serve(l) }()
	w = NewWorkloadAPI(WorkloadAPIConfig{Addr: "unix://" + socket, Ended: ended})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		server.Stop()
	})
	return a, w, server.Stop
}

// within polls until what is said is true.
func within(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.After(10 * time.Second); !is(); {
		select {
		case <-time.After(time.Millisecond):
		case <-deadline:
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// has says whether there is an SVID right now.
func has(w *WorkloadAPI, id ID) bool {
	now, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := w.SVID(now, id)
	return err == nil
}

func TestWorkloadAPI(t *testing.T) {
	now := time.Now()
	a, w, stop := serveAgent(t, nil)
	web, proxy := account(t, testDomain, "shop", "web"), account(t, testDomain, "tulle-system", "tulle-proxy")
	within(t, "an answer", func() bool { return w.Status(now, nil).LastError != nil })
	if has(w, web) || w.Bundle() != nil {
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
	within(t, "the new root", func() bool { return w.Bundle().Sum() != before.Sum() })
	if n := len(w.Bundle().Roots()); n != 2 {
		t.Errorf("%d roots", n)
	}
	if has(w, web) {
		t.Error("an identity that left has an SVID")
	}
	// The agent goes away: what it gave stays.
	stop()
	within(t, "word that it doesn't answer", func() bool { return w.Status(now, nil).LastError != nil })
	if !has(w, proxy) {
		t.Error("an SVID went with the agent")
	}
}

// What the API leaves out has ended, be it the last that there was.
func TestWorkloadAPIEndsIdentities(t *testing.T) {
	now := time.Now()
	gone := make(chan map[ID]bool, 1)
	a, w, _ := serveAgent(t, func(ids map[ID]bool) { gone <- ids })
	web, api := account(t, testDomain, "shop", "web"), account(t, testDomain, "shop", "api")
	root := newRoot(t, testDomain, now)
	a.set(issue(t, now, []ID{web, api}, root))
	if _, err := w.SVID(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		next  *workload.X509SVIDResponse
		ended ID
	}{{issue(t, now, []ID{api}, root), web}, {nil, api}} {
		a.set(step.next)
		select {
		case got := <-gone:
			if len(got) != 1 || !got[step.ended] || has(w, step.ended) {
				t.Errorf("%v ended, want %s", got, step.ended)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s never ended", step.ended)
		}
	}
	if w.Bundle() == nil {
		t.Error("the roots went, too: everybody is a stranger")
	}
	a.set(issue(t, now, []ID{web}, root))
	if _, err := w.SVID(t.Context(), web); err != nil { // it is asked again
		t.Error(err)
	}
}

// All that is registered comes in one answer.
func TestWorkloadAPIGivesMuchAtOnce(t *testing.T) {
	now := time.Now()
	a, w, _ := serveAgent(t, nil)
	web := account(t, testDomain, "shop", "web")
	r := issue(t, now, []ID{web}, newRoot(t, testDomain, now))
	r.Svids[0].Hint = strings.Repeat("x", 5<<20) // in place of thousands of SVIDs, which take long to read
	a.set(r)
	within(t, "an SVID", func() bool { return has(w, web) })
}

func TestWorkloadAPIStatus(t *testing.T) {
	now := time.Now()
	a, w, _ := serveAgent(t, nil)
	web, api, none := account(t, testDomain, "shop", "web"), account(t, testDomain, "shop", "api"), account(t, testDomain, "shop", "none")
	elsewhere, err := ParseTrustDomain("elsewhere.org")
	if err != nil {
		t.Fatal(err)
	}
	foreign := account(t, elsewhere, "shop", "api")
	root := newRoot(t, testDomain, now)
	r := issue(t, now, []ID{web, api}, root) // which lasts an hour
	// There may be several entries of one identity, and one of a domain whose roots don't matter.
	r.Svids = append(r.Svids, issue(t, now.Add(-30*time.Minute), []ID{web}, root).GetSvids()...)
	r.Svids = append(r.Svids, issue(t, now, []ID{foreign}, newRoot(t, elsewhere, now)).GetSvids()...)
	a.set(r)
	svid, err := w.SVID(t.Context(), web)
	if err != nil {
		t.Fatal(err)
	}
	if left := svid.NotAfter.Sub(now); left < 50*time.Minute {
		t.Errorf("it holds the one of two that ends first, in %v", left)
	}
	if has(w, foreign) {
		t.Error("it takes an SVID that the bundle doesn't go with")
	}
	for _, tc := range []struct {
		at            time.Duration
		held, overdue int
	}{{0, 2, 0}, {31 * time.Minute, 2, 0}, {40 * time.Minute, 2, 2}, {61 * time.Minute, 0, 0}} {
		s := w.Status(now.Add(tc.at), []ID{web, api, none})
		if s.Wanted != 3 || s.Held != tc.held || s.Overdue != tc.overdue || s.FirstEnd.IsZero() != (tc.held == 0) {
			t.Errorf("after %v: %+v", tc.at, s)
		}
	}
}

// A long life is renewed when availability_target says so, which may be long after its half.
func TestOverdue(t *testing.T) {
	for life, want := range map[time.Duration]time.Duration{
		time.Hour: 24 * time.Minute, 48 * time.Hour: 19*time.Hour + 12*time.Minute, 30 * 24 * time.Hour: 19*time.Hour + 12*time.Minute,
	} {
		if got := overdue(life); got != want {
			t.Errorf("%v: %v, want %v", life, got, want)
		}
	}
}
