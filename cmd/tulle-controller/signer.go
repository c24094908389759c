package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/kube"
	"github.com/tulle-mesh/tulle/internal/push"
)

// trustEvery is how often the CA is looked at, or more often if that is not well below what a new root is given to spread.
const trustEvery = 10 * time.Second

// signer is the process that certifies identities. Nobody else may read the CA's key, and it reads nothing of the cluster's
// but pods.
type signer struct {
	process

	trustDomain, secret        string
	svidLife, rootLife, spread time.Duration
	address                    string

	clients   *kube.Clients
	pods      *kube.PodSource
	authority *identity.Authority
	trust     *kube.Trust
	server    *push.IdentityServer
	metrics   *prometheus.Registry
	failed    atomic.Pointer[error] // why the CA could not be kept, the last time
}

func newSigner(stderr io.Writer) *cobra.Command {
	s := &signer{process: process{component: "identity", stderr: stderr}}
	return subcommand("identity", "Keep the CA of the mesh's identities, and certify them to proxies", s.addFlags, s.run)
}

func (s *signer) addFlags(f *pflag.FlagSet) {
	s.process.addFlags(f)
	f.StringVar(&s.trustDomain, "trust-domain", "cluster.local", "trust domain of SPIFFE IDs")
	f.StringVar(&s.secret, "identity-secret", "", "Secret in the mesh's namespace with a CA of your own: tls.crt, tls.key and ca.crt (default one that is made and replaced)")
	f.DurationVar(&s.svidLife, "svid-life", time.Hour, "how long a certificate of an identity lasts; it is renewed at half of that")
	f.DurationVar(&s.rootLife, "identity-root-life", 8760*time.Hour, "how long a root that is made lasts; it is replaced when a third is left")
	f.DurationVar(&s.spread, "identity-spread", 5*time.Minute, "how long proxies are given to learn of a new root before anything is signed by it")
	f.StringVar(&s.address, "identity-address", ":15012", "address at which proxies ask for certificates")
}

// complete checks the flags. Every error names the flag.
func (s *signer) complete() error {
	if err := s.check(); err != nil {
		return err
	}
	td, err := identity.ParseTrustDomain(strings.ToLower(s.trustDomain))
	if err != nil {
		return fmt.Errorf("--trust-domain: %w", err)
	}
	if err := checkLife(s.svidLife); err != nil {
		return err
	}
	if s.spread < time.Second {
		return fmt.Errorf("--identity-spread %s: want a second at least", s.spread)
	}
	if s.rootLife < 8*s.svidLife {
		return fmt.Errorf("--identity-root-life %s: want at least eight times --svid-life", s.rootLife)
	}
	s.authority = identity.NewAuthority(identity.AuthorityConfig{TrustDomain: td, Name: s.podName, Life: s.svidLife, Spread: s.spread})
	return nil
}

// signerDoors are what a signer listens on.
type signerDoors struct {
	doors
	sign net.Listener
}

func (s *signer) run(ctx context.Context) (err error) {
	if err := s.complete(); err != nil {
		return err
	}
	if s.clients, err = s.connect(kube.ClientsConfig{}); err != nil {
		return err
	}
	d, err := s.listen(ctx)
	if err != nil {
		return err
	}
	s.wire()
	return s.serve(ctx, d)
}

func (s *signer) listen(ctx context.Context) (*signerDoors, error) {
	d := &signerDoors{}
	return d, open(ctx, append(s.listeners(&d.doors), listener{"identity-address", s.address, &d.sign})...)
}

// wire makes the parts.
func (s *signer) wire() {
	s.pods = kube.NewPodSource(s.clients.Read, s.podNamespace)
	s.trust = kube.NewTrust(kube.TrustConfig{
		Client: s.clients.Read, Namespace: s.podNamespace, Secret: s.secret, RootLife: s.rootLife, Authority: s.authority, Log: s.log,
	})
	s.server = push.NewIdentityServer(push.IdentityServerConfig{
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return s.authority.Certificate(s.podNamespace, kube.IdentityAccount, time.Now())
		},
		Authenticator: &kube.Authenticator{Client: s.clients.Read, Namespace: s.podNamespace, Audience: kube.IdentityAudience, Pods: s.pods},
		Identities:    &kube.Identities{Pods: s.pods, Authority: s.authority},
		Log:           s.log,
	})
	s.metrics = s.newMetrics()
	s.metrics.MustRegister(
		s.server,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tulle_identity_ca_expiry_timestamp_seconds", Help: "When the CA that signs identities ends; 0 while there is none.",
		}, func() float64 {
			if end := s.authority.Ends(time.Now()); !end.IsZero() {
				return float64(end.Unix())
			}
			return 0
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tulle_identity_roots", Help: "Roots that are trusted; more than one while one replaces another.",
		}, func() float64 { return float64(len(s.trust.Bundle().GetRoots())) }),
	)
}

// serve runs the parts until ctx ends, or one of them fails.
func (s *signer) serve(ctx context.Context, d *signerDoors) error {
	return s.together(ctx, &d.doors, s.ready, s.metrics, s.pods.Run, s.keepTrust,
		func(ctx context.Context) error { return s.server.Serve(ctx, d.sign) })
}

// ready says why this replica should get no requests yet.
func (s *signer) ready() error {
	if err := s.pods.Waiting(); err != nil {
		return err
	}
	if s.authority.Ends(time.Now()).IsZero() {
		if err := s.failed.Load(); err != nil && *err != nil {
			return *err
		}
		return errors.New("no CA is ready to sign")
	}
	return nil
}

// keepTrust keeps the CA.
func (s *signer) keepTrust(ctx context.Context) error {
	for pause := time.Duration(0); wait(ctx, pause); pause = min(trustEvery, s.authority.Config().Spread/4) {
		_, err := s.trust.Ensure(ctx)
		if ctx.Err() != nil {
			return nil
		}
		s.failed.Store(&err)
		if err != nil {
			s.log.Warn("identities' CA not ensured", "err", err)
		}
	}
	return nil
}
