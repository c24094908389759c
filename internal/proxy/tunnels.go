package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/proxy/tunnel"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// Tunnels are the tunnels to other nodes, as upstreams know them. Client and Source are required, and the same that the
// Client has.
type Tunnels struct {
	Client *tunnel.Client
	Source identity.Source

	mu    sync.Mutex
	plain map[string]uint64 // by reason; guarded by mu
}

// id is the SPIFFE ID of a caller; zero for nobody.
func (t *Tunnels) id(c upstream.Caller) (identity.ID, error) {
	if c == (upstream.Caller{}) {
		return identity.ID{}, nil
	}
	b := t.Source.Bundle()
	if b == nil {
		return identity.ID{}, fmt.Errorf("%w: no trust bundle yet", upstream.ErrNoProof)
	}
	id, err := identity.Account(b.TrustDomain(), c.Namespace, c.ServiceAccount)
	if err != nil {
		return identity.ID{}, fmt.Errorf("%w: %w", upstream.ErrNoProof, err)
	}
	return id, nil
}

// Dial implements upstream.Tunnels.
func (t *Tunnels) Dial(ctx context.Context, to upstream.Target) (net.Conn, error) {
	id, err := t.id(to.Caller)
	if err != nil {
		return nil, err
	}
	c, err := t.Client.Dial(ctx, id, to.Node, tunnel.Destination{
		UDP: to.UDP, Address: to.Address, Pod: to.Pod, Service: to.Service, Port: uint16(to.Port), HTTP: to.HTTP,
		Scheme: schemes[to.Scheme], EncodedSlash: to.EncodedSlash,
	})
	if err == nil {
		return c, nil
	}
	var refused *tunnel.RefusedError
	switch {
	case errors.Is(err, tunnel.ErrNoProxy):
		err = fmt.Errorf("%w: %w", upstream.ErrNoProxy, err)
	case errors.Is(err, tunnel.ErrNoIdentity):
		err = fmt.Errorf("%w: %w", upstream.ErrNoProof, err)
	case errors.Is(err, tunnel.ErrUnreachable), errors.As(err, &refused) && (refused.Reason == tunnel.Draining || refused.Reason == tunnel.UnknownPeer):
		err = fmt.Errorf("%w: %w", upstream.ErrUnreachable, err)
	case errors.As(err, &refused) && refused.Reason == tunnel.NotHere:
		err = fmt.Errorf("%w: %w", upstream.ErrUnknownThere, err)
	case errors.As(err, &refused) && refused.Reason == tunnel.ConnectFailed:
		err = fmt.Errorf("%w: %w", upstream.ErrEndpoint, err)
	case errors.As(err, &refused) && refused.Reason.Verdict():
		err = fmt.Errorf("%w: %w", &upstream.DeniedError{Reason: string(refused.Reason)}, err)
	}
	return nil, err
}

var schemes = map[configv1.Scheme]string{configv1.Scheme_SCHEME_H2C: "h2c", configv1.Scheme_SCHEME_HTTPS: "https"}

// Holds implements upstream.Tunnels. It does not wait.
func (t *Tunnels) Holds(c upstream.Caller) bool {
	id, err := t.id(c)
	if err != nil || id.IsZero() {
		return false
	}
	now, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = t.Source.SVID(now, id)
	return err == nil
}

// Probe implements upstream.Tunnels.
func (t *Tunnels) Probe(c upstream.Caller, node string, done func(ok bool)) {
	id, err := t.id(c)
	if err != nil {
		done(false)
		return
	}
	t.Client.Probe(id, node, done)
}

// Forget implements upstream.Tunnels.
func (t *Tunnels) Forget(gone func(upstream.Caller) bool) {
	t.Client.CloseIdle(func(id identity.ID) bool {
		namespace, account, ok := identity.SplitAccount(id)
		return ok && gone(upstream.Caller{Namespace: namespace, ServiceAccount: account})
	})
}

// Plain implements upstream.Tunnels.
func (t *Tunnels) Plain(reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.plain == nil {
		t.plain = map[string]uint64{}
	}
	t.plain[reason]++
}

var plainDesc = prometheus.NewDesc("tulle_proxy_plain_total",
	"Calls to pods of other nodes that went in the clear, by reason.", []string{"reason"}, nil)

// Describe makes Tunnels a prometheus.Collector.
func (t *Tunnels) Describe(descs chan<- *prometheus.Desc) { descs <- plainDesc }

// Collect makes Tunnels a prometheus.Collector.
func (t *Tunnels) Collect(out chan<- prometheus.Metric) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for reason, n := range t.plain {
		out <- prometheus.MustNewConstMetric(plainDesc, prometheus.CounterValue, float64(n), reason)
	}
}
