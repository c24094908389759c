package push

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/identity"
)

// census certifies who runs on which node.
type census struct {
	authority *identity.Authority
	runs      map[string][]string // accounts of namespace shop, by node
	down      atomic.Bool
	asked     atomic.Int64
}

func (c *census) Sign(_ context.Context, peer Peer, namespace, account string, csr []byte) ([][]byte, error) {
	c.asked.Add(1)
	if c.down.Load() {
		return nil, errors.New("not just now")
	}
	for _, a := range c.runs[peer.Node] {
		if a == account && namespace == "shop" {
			return c.authority.Sign(csr, namespace, account, peer.Node, time.Now())
		}
	}
	return nil, fmt.Errorf("%w: no pod of %s/%s runs on %s", ErrDenied, namespace, account, peer.Node)
}

func newCensus(t *testing.T, life time.Duration) (*census, identity.TrustDomain) {
	t.Helper()
	td, err := identity.ParseTrustDomain("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	root, err := identity.NewRoot(td, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	a := identity.NewAuthority(identity.AuthorityConfig{TrustDomain: td, Life: life})
	a.Update(identity.Record(nil).Next(root.Roots(), time.Now(), time.Hour), root)
	return &census{authority: a, runs: map[string][]string{"node-a": {"web"}, "node-b": {"admin"}}}, td
}

// signing is an IdentityServer that listens.
type signing struct {
	*IdentityServer
	addr string
	pods *pods
	stop func()
}

// certify starts an IdentityServer; it is stopped when the test ends.
func certify(t *testing.T, ca *identity.CA, c Identities) *signing {
	t.Helper()
	s := &signing{pods: &pods{}}
	s.IdentityServer = NewIdentityServer(IdentityServerConfig{
		Certificate: identity.NewServing(ca, serverName).GetCertificate, Authenticator: s.pods, Identities: c, Log: slog.New(slog.DiscardHandler),
	})
	s.listen(t, "127.0.0.1:0")
	return s
}

func (s *signing) listen(t *testing.T, addr string) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(s.stop)
}

// signerOf is the Signer of a proxy's pod.
func signerOf(t *testing.T, ca *identity.CA, addr, token string) *Signer {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "ca.crt")
	writeFile(t, file, string(ca.CertPEM()))
	c := SignerConfig{Addr: addr, TLS: func() (*tls.Config, error) { return byCA(file, serverName) }, TokenFile: filepath.Join(dir, "token")}
	writeFile(t, c.TokenFile, token+"\n")
	s := NewSigner(c)
	t.Cleanup(s.Close)
	return s
}

// A proxy gets what runs on its node, by its token, and nothing else.
func TestTokenGetsOnlyItsOwnNodesIdentities(t *testing.T) {
	ca := newCA(t)
	c, td := newCensus(t, time.Hour)
	r := certify(t, ca, c)
	_, csr, err := identity.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		token, namespace, account string
		want                      error // nil = granted
	}{
		{"token-a", "shop", "web", nil},
		{"token-b", "shop", "admin", nil},
		{"token-a", "shop", "admin", ErrDenied},
		{"token-b", "shop", "web", ErrDenied},
		{"token-a", "other", "web", ErrDenied},
		{"token-a", "shop", "web/../admin", ErrDenied},
		{"stolen", "shop", "web", errUnauthenticated},
		{"", "shop", "web", errUnauthenticated},
	} {
		chain, err := signerOf(t, ca, r.addr, tc.token).Sign(t.Context(), tc.namespace, tc.account, csr)
		switch {
		case tc.want == nil:
			if err != nil {
				t.Errorf("%+v: %v", tc, err)
				continue
			}
			peer, err := identity.ParseAndVerify(chain, c.authority.Bundle(), time.Now())
			id, _ := identity.Account(td, tc.namespace, tc.account)
			if err != nil || peer.ID != id || peer.Node != "node-"+tc.token[len("token-"):] {
				t.Errorf("%+v: signed %+v, %v", tc, peer, err)
			}
		case err == nil || chain != nil:
			t.Errorf("%+v was granted", tc)
		case errors.Is(err, ErrDenied) != errors.Is(tc.want, ErrDenied):
			t.Errorf("%+v: %v", tc, err)
		}
	}
	if signed, denied, strangers := r.signed.Load(), r.denied.Load(), r.unauthenticated.Load(); signed != 2 || denied != 4 || strangers != 2 {
		t.Errorf("%d signatures, %d refusals and %d strangers counted", signed, denied, strangers)
	}
}

var errUnauthenticated = errors.New("unauthenticated")

// Who makes config certifies nobody, and proxies of a version that asks it all the same are told so: what they have lasts
// until they are replaced.
func TestServersOfConfigCertifyNobody(t *testing.T) {
	ca := newCA(t)
	_, err := signerOf(t, ca, serve(t, ca).addr, "token-a").Sign(t.Context(), "shop", "web", nil)
	if status.Code(err) != codes.Unimplemented || errors.Is(err, ErrDenied) {
		t.Error(err)
	}
}

func TestWhoShowsAnotherCertificateIsNotAsked(t *testing.T) {
	c, _ := newCensus(t, time.Hour)
	r := certify(t, newCA(t), c)
	if _, err := signerOf(t, newCA(t), r.addr, "token-a").Sign(t.Context(), "shop", "web", nil); err == nil {
		t.Error("it was")
	}
	if c.asked.Load() != 0 || r.pods.judged.Load() != 0 {
		t.Error("it was told the token")
	}
}

// The whole way: a keeper renews over a real connection, sits out a signer that is away for longer than half an
// SVID's life, and goes on at another replica.
func TestKeeperOutlivesASigner(t *testing.T) {
	ca := newCA(t)
	c, td := newCensus(t, 2*time.Second)
	r := certify(t, ca, c)
	signer := signerOf(t, ca, r.addr, "token-a")
	k := identity.NewKeeper(identity.KeeperConfig{Signer: signer, Retry: 50 * time.Millisecond})
	k.Trust(c.authority.Bundle())
	web, err := identity.Account(td, "shop", "web")
	if err != nil {
		t.Fatal(err)
	}
	k.Want(web)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	first, err := k.SVID(t.Context(), web)
	if err != nil {
		t.Fatal(err)
	}
	r.stop()
	eventually(t, "the renewal is overdue", func() bool {
		svid, err := k.SVID(t.Context(), web)
		return k.Status(time.Now()).Overdue == 1 && err == nil && svid == first
	})
	next := &signing{IdentityServer: NewIdentityServer(r.config)}
	next.listen(t, r.addr)
	eventually(t, "renewed", func() bool {
		svid, err := k.SVID(t.Context(), web)
		return err == nil && svid != first
	})
	if n := next.signed.Load(); n == 0 {
		t.Error("not by the new replica")
	}
}

// A token that was judged a moment ago is not judged again, but one that changed is.
func TestTokensAreReadForEachRequest(t *testing.T) {
	ca := newCA(t)
	c, _ := newCensus(t, time.Hour)
	r := certify(t, ca, c)
	s := signerOf(t, ca, r.addr, "token-a")
	_, csr, err := identity.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := s.Sign(t.Context(), "shop", "web", csr); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.pods.judged.Load(); n != 1 {
		t.Errorf("judged %d times", n)
	}
	if err := os.WriteFile(s.config.TokenFile, []byte("token-b"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sign(t.Context(), "shop", "web", csr); !errors.Is(err, ErrDenied) {
		t.Errorf("with the other token: %v", err)
	}
}
