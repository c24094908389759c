package main

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/controller"
)

// Where the identities of the mesh come from.
const (
	identityTulle = "tulle" // a process of the mesh is the CA: `tulle-controller identity`
	identitySPIRE = "spire" // proxies ask a SPIFFE Workload API
	identityOff   = "off"
)

// identityOptions are the controllers' flags about identities.
type identityOptions struct {
	mode     string
	svidLife time.Duration
}

func (o *identityOptions) check() error {
	if err := checkLife(o.svidLife); err != nil {
		return err
	}
	switch o.mode {
	case identityTulle, identitySPIRE, identityOff:
		return nil
	default:
		return fmt.Errorf("--identity %q: want tulle, spire or off", o.mode)
	}
}

func checkLife(life time.Duration) error {
	if life < time.Second || life > 24*time.Hour {
		return fmt.Errorf("--svid-life %s: want a second to a day", life)
	}
	return nil
}

// tellTrust has proxies told whom to trust, as the identities' CA wrote it down.
func (c *command) tellTrust(to *controller.Config) {
	if c.identity.mode == identityOff {
		return
	}
	to.Trust = func() *configv1.TrustBundle { return c.source.Trust().Bundle(c.names.TrustDomain) }
	if c.identity.mode != identityTulle {
		return
	}
	to.CAEnds = func() time.Time { return c.source.Trust().Ends }
	c.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tulle_controller_identity_roots", Help: "Roots that proxies are told to trust; more than one while one replaces another.",
	}, func() float64 { return float64(len(c.source.Trust().Roots)) }))
}
