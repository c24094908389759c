package main

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/kube"
)

// trustEvery is how often the CA is looked at, or more often if that is not well below what a new root is given to spread.
const trustEvery = 10 * time.Second

// Where the identities of the mesh come from.
const (
	identityTulle = "tulle" // the controllers are the CA
	identitySPIRE = "spire" // proxies ask a SPIFFE Workload API
	identityOff   = "off"
)

// identityOptions are the flags about identities.
type identityOptions struct {
	mode, secret               string
	svidLife, rootLife, spread time.Duration
}

// authority checks the flags and makes what signs; nil if this controller is no CA.
func (o *identityOptions) authority(trustDomain, pod string) (*identity.Authority, error) {
	td, err := identity.ParseTrustDomain(trustDomain)
	switch {
	case err != nil:
		return nil, fmt.Errorf("--trust-domain: %w", err)
	case o.svidLife < time.Second || o.svidLife > 24*time.Hour:
		return nil, fmt.Errorf("--svid-life %s: want a second to a day", o.svidLife)
	case o.spread < time.Second:
		return nil, fmt.Errorf("--identity-spread %s: want a second at least", o.spread)
	case o.rootLife < 8*o.svidLife:
		return nil, fmt.Errorf("--identity-root-life %s: want at least eight times --svid-life", o.rootLife)
	}
	switch o.mode {
	case identityTulle:
		return identity.NewAuthority(identity.AuthorityConfig{TrustDomain: td, Name: pod, Life: o.svidLife, Spread: o.spread}), nil
	case identitySPIRE, identityOff:
		return nil, nil
	default:
		return nil, fmt.Errorf("--identity %q: want tulle, spire or off", o.mode)
	}
}

// newTrust makes what keeps the CA; nil if this controller is none.
func (c *command) newTrust() *kube.Trust {
	if c.authority == nil {
		return nil
	}
	c.metrics.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tulle_controller_identity_ca_expiry_timestamp_seconds", Help: "When the CA that signs identities ends; 0 while there is none.",
		}, func() float64 {
			if end := c.authority.Ends(time.Now()); !end.IsZero() {
				return float64(end.Unix())
			}
			return 0
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tulle_controller_identity_roots", Help: "Roots that proxies are told to trust; more than one while one replaces another.",
		}, func() float64 { return float64(len(c.trust.Bundle().GetRoots())) }),
	)
	return kube.NewTrust(kube.TrustConfig{
		Client: c.clients.Read, Namespace: c.podNamespace, Secret: c.identity.secret, RootLife: c.identity.rootLife,
		Authority: c.authority, Log: c.log,
	})
}

// bundle is the controller.Config's Trust.
func (c *command) bundle() *configv1.TrustBundle {
	if c.trust == nil {
		return nil
	}
	return c.trust.Bundle()
}

// keepTrust keeps the CA and tells the proxies when it changes.
func (c *command) keepTrust(ctx context.Context) error {
	if c.trust == nil {
		return nil
	}
	for pause := time.Duration(0); wait(ctx, pause); pause = min(trustEvery, c.authority.Config().Spread/4) {
		changed, err := c.trust.Ensure(ctx)
		if err != nil && ctx.Err() == nil {
			c.log.Warn("identities' CA not ensured", "err", err)
		}
		if changed {
			c.loop.Renew()
		}
	}
	return nil
}
