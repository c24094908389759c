package push

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
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

// signerOf is the Signer of a proxy's pod.
func signerOf(t *testing.T, ca *identity.CA, addr, token string) *Signer {
	t.Helper()
	dir := t.TempDir()
	c := SignerConfig{Addr: addr, ServerName: serverName, CAFile: filepath.Join(dir, "ca.crt"), TokenFile: filepath.Join(dir, "token")}
	writeFile(t, c.CAFile, string(ca.CertPEM()))
	writeFile(t, c.TokenFile, token+"\n")
	s := NewSigner(c)
	t.Cleanup(s.Close)
	return s
}

// A proxy gets what runs on its node, by its token, and nothing else.
func TestTokenGetsOnlyItsOwnNodesIdentities(t *testing.T) {
	ca := newCA(t)
	c, td := newCensus(t, time.Hour)
	r := serve(t, ca, func(s *ServerConfig) { s.Identities = c })
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
	if got := r.counts.unsigned.Load(); got != 4 {
		t.Errorf("%d refusals counted", got)
	}
}

var errUnauthenticated = errors.New("unauthenticated")

func TestNobodySignsWithoutACA(t *testing.T) {
	ca := newCA(t)
	r := serve(t, ca)
	if _, err := signerOf(t, ca, r.addr, "token-a").Sign(t.Context(), "shop", "web", nil); err == nil || errors.Is(err, ErrDenied) {
		t.Error(err)
	}
	// Another controller's CA proves nothing.
	if _, err := signerOf(t, newCA(t), r.addr, "token-a").Sign(t.Context(), "shop", "web", nil); err == nil {
		t.Error("asked a controller that showed another CA's certificate")
	}
}

// The whole way: a keeper renews over a real connection, sits out a controller that is away for longer than half an
// SVID's life, and goes on at another replica.
func TestKeeperOutlivesAController(t *testing.T) {
	ca := newCA(t)
	c, td := newCensus(t, 2*time.Second)
	r := serve(t, ca, func(s *ServerConfig) { s.Identities = c })
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
	next := start(t, NewServer(r.config), r.addr, r.pods)
	eventually(t, "renewed", func() bool {
		svid, err := k.SVID(t.Context(), web)
		return err == nil && svid != first
	})
	if n := next.counts.signed.Load(); n == 0 {
		t.Error("not by the new replica")
	}
}

// A token that was judged a moment ago is not judged again, but one that changed is.
func TestTokensAreReadForEachRequest(t *testing.T) {
	ca := newCA(t)
	c, _ := newCensus(t, time.Hour)
	r := serve(t, ca, func(s *ServerConfig) { s.Identities = c })
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

// While controllers are replaced, some may be of a version that certifies nobody. The Service leads to any of them.
func TestControllersThatCertifyNobody(t *testing.T) {
	ca := newCA(t)
	c, _ := newCensus(t, time.Hour)
	old, next := serve(t, ca), serve(t, ca, func(s *ServerConfig) { s.Identities = c })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var led atomic.Int64
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			to := old.addr
			if led.Add(1) > 3 {
				to = next.addr
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			go func() {
				defer out.Close()
				_, _ = io.Copy(out, in)
			}()
			go func() {
				defer in.Close()
				_, _ = io.Copy(in, out)
			}()
		}
	}()
	_, csr, err := identity.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signerOf(t, ca, l.Addr().String(), "token-a").Sign(t.Context(), "shop", "web", csr); err != nil || led.Load() != 4 {
		t.Errorf("after %d connections: %v", led.Load(), err)
	}
	led.Store(-1000)
	if _, err := signerOf(t, ca, l.Addr().String(), "token-a").Sign(t.Context(), "shop", "web", csr); status.Code(err) != codes.Unimplemented {
		t.Errorf("none of them does: %v", err)
	}
}
