//go:build linux

package main

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

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
