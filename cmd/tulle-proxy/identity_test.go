//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/identity"
)

// late is a Source that has a bundle, and then a certificate, after some time.
type late struct {
	bundle    *identity.Bundle
	has, svid time.Time
}

func (l late) Bundle() *identity.Bundle {
	if time.Now().Before(l.has) {
		return nil
	}
	return l.bundle
}

func (l late) SVID(context.Context, identity.ID) (*identity.SVID, error) {
	if time.Now().Before(l.svid) {
		return nil, errors.New("not yet")
	}
	return &identity.SVID{}, nil
}

// A new pod is not ready before it has what other nodes' proxies know it by, but for no longer than it is told to wait.
func TestReadyWithACertificate(t *testing.T) {
	td, err := identity.ParseTrustDomain("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	root, err := identity.NewRoot(td, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := identity.NewBundle(td, root.Roots())
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ bundle, svid, want time.Duration }{
		{0, 0, 0},
		{0, 2 * time.Second, 2 * time.Second},
		{3 * time.Second, 4 * time.Second, 4 * time.Second},
		{time.Hour, time.Hour, 10 * time.Second},
		{0, time.Hour, 10 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			i := &identities{
				log: slog.New(slog.DiscardHandler), own: [2]string{"tulle-system", proxyAccount},
				source: late{bundle, began.Add(tc.bundle), began.Add(tc.svid)},
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			i.awaitOwn(ctx)
			if took := time.Since(began); took < tc.want || took > tc.want+time.Second {
				t.Errorf("%+v: it took %v", tc, took)
			}
		})
	}
	var none *identities
	none.awaitOwn(t.Context()) // there are to be none
}

// authorityOf is a CA of its own, and its roots as PEM.
func authorityOf(t *testing.T, td identity.TrustDomain) (*identity.Authority, []byte) {
	t.Helper()
	root, err := identity.NewRoot(td, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	a := identity.NewAuthority(identity.AuthorityConfig{TrustDomain: td, Life: time.Minute})
	record := identity.Record(nil).Next(root.Roots(), time.Now(), time.Hour)
	a.Update(record, root)
	return a, record.PEM()
}

// Whoever makes controllers name roots of his own is not taken for the CA: it is known by what the pod has mounted.
func TestTheCAIsKnownByWhatIsMounted(t *testing.T) {
	td, err := identity.ParseTrustDomain("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	mesh, roots := authorityOf(t, td)
	forger, _ := authorityOf(t, td)
	file := filepath.Join(t.TempDir(), "ca.crt")
	i := &identities{own: [2]string{"tulle-system", proxyAccount}, source: late{bundle: forger.Bundle(), has: time.Now().Add(time.Hour)}}
	if _, err := i.authority(file); err == nil {
		t.Error("without a trust domain")
	}
	i.source = late{bundle: forger.Bundle()}
	if _, err := i.authority(file); err == nil {
		t.Error("without roots")
	}
	if err := os.WriteFile(file, roots, 0o600); err != nil {
		t.Fatal(err)
	}
	for what, tc := range map[string]struct {
		by      *identity.Authority
		account string
		ok      bool
	}{
		"the CA":                          {mesh, "tulle-identity", true},
		"another account":                 {mesh, "tulle-controller", false},
		"who is named by the controllers": {forger, "tulle-identity", false},
	} {
		config, err := i.authority(file)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := tc.by.Certificate("tulle-system", tc.account, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		client, server := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer server.Close()
			_ = tls.Server(server, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*cert}, SessionTicketsDisabled: true}).HandshakeContext(t.Context())
		}()
		if err := tls.Client(client, config).HandshakeContext(t.Context()); (err == nil) != tc.ok {
			t.Errorf("%s: %v", what, err)
		}
		client.Close()
		<-done
	}
}

// On the way back to a version without identities, a proxy whose controller has none any more still serves those that other
// controllers sent here.
func TestNeighboursOutliveTheirController(t *testing.T) {
	i := &identities{log: slog.New(slog.DiscardHandler), port: 15008, nodes: map[string]*configv1.NodeProxies{}}
	i.now.Store(&neighbours{})
	apply := func(u configv1.Update) {
		if refused := i.Apply(u); len(refused) > 0 {
			t.Fatal(refused)
		}
	}
	peer := func(text string) string {
		node, _ := i.peer(netip.MustParseAddr(text))
		return node
	}
	n1 := resource(t, "n1", &configv1.NodeProxies{Ready: []string{"10.0.1.1"}, All: []string{"10.0.1.1", "10.0.1.2"}})
	n2 := resource(t, "n2", &configv1.NodeProxies{All: []string{"10.0.2.1"}})
	apply(configv1.Update{Set: []configv1.Resource{n1, n2}})
	if peer("10.0.1.2") != "n1" || peer("10.0.2.1") != "n2" || peer("10.0.9.9") != "" || len(i.proxies("n1")) != 1 || len(i.proxies("n2")) != 0 {
		t.Errorf("%+v", i.now.Load())
	}
	apply(configv1.Update{Removed: []configv1.Key{n2.Key}})
	if peer("10.0.2.1") != "" {
		t.Error("a node that is gone has a proxy still")
	}
	apply(configv1.Update{Removed: []configv1.Key{n1.Key}})
	if peer("10.0.1.2") != "n1" {
		t.Error("a proxy that goes on calling here is nobody any more")
	}
	n3 := resource(t, "n3", &configv1.NodeProxies{All: []string{"10.0.3.1"}})
	apply(configv1.Update{Set: []configv1.Resource{n3}})
	if peer("10.0.1.2") != "" || peer("10.0.3.1") != "n3" {
		t.Error("what another controller says is not what counts")
	}
}

// A Workload API that never answers ends nothing, and the metrics that alerts look at say that identities are missing.
func TestWithoutAWorkloadAPI(t *testing.T) {
	c := startController(t)
	web, _ := web(t)
	c.publish(t, true, web)
	dir := t.TempDir()
	p := startProxy(t, c, dir, "--identity", "spire", "--spire-socket", "unix://"+dir+"/none.sock")
	p.waitReady()
	eventually(t, "the metrics say it", func() bool {
		_, body, err := get("http://" + p.metrics + "/metrics")
		lines := strings.Split(body, "\n")
		return err == nil && slices.Contains(lines, "tulle_proxy_identities 1") && slices.Contains(lines, "tulle_proxy_svids 0") &&
			slices.ContainsFunc(lines, func(s string) bool {
				n, ok := strings.CutPrefix(s, "tulle_proxy_svid_failures_total ")
				return ok && n != "0"
			})
	})
	if !strings.Contains(p.log.String(), "Workload API does not answer") {
		t.Error("nothing was logged")
	}
	if got := p.readiness(); got != 200 {
		t.Errorf("the proxy is not ready: %d", got)
	}
}
