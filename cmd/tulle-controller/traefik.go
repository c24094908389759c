package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/kube"
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/status"
	"github.com/tulle-mesh/tulle/internal/topology"
	"github.com/tulle-mesh/tulle/internal/traefik"
)

// engine is stock Traefik as controller.Engine, and the handler that its HTTP provider asks.
type engine struct {
	zones   []string
	current atomic.Pointer[[]byte]
}

// Render implements controller.Engine.
func (e *engine) Render(t topology.Topology, a shadow.Assigned) ([]byte, []problem.Problem, error) {
	config, problems := traefik.Render(traefik.Config{Zones: e.zones, ReadyOn: "traefik"}, t, a)
	raw, err := traefik.Encode(config)
	return raw, problems, err
}

// Publish implements controller.Engine.
func (e *engine) Publish(config []byte) { e.current.Store(&config) }

// Status implements controller.Engine.
func (e *engine) Status() status.Engine {
	return status.Engine{Name: "traefik", Limits: traefik.Limits()}
}

// ServeHTTP answers with the current configuration. Before there is one, Traefik keeps what it has.
func (e *engine) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	config := e.current.Load()
	if config == nil {
		http.Error(w, "no configuration was made yet", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(*config)
}

// serveTraefik serves the configuration to who has the key of the Secret that the Traefik pods mount.
func (c *command) serveTraefik(ctx context.Context, l net.Listener) error {
	var clients atomic.Pointer[x509.CertPool]
	ensure := func() error {
		cert, err := kube.EnsureTraefikClient(ctx, c.clients.Read, c.podNamespace)
		if err == nil {
			var pool *x509.CertPool
			if pool, err = identity.CertPool(cert); err == nil {
				clients.Store(pool)
			}
		}
		if err != nil && ctx.Err() == nil {
			c.log.Warn("Traefik's client certificate not ensured", "err", err)
		}
		return err
	}
	for ensure() != nil || c.serving.Load() == nil {
		if !wait(ctx, time.Second) {
			return nil
		}
	}
	go func() {
		for wait(ctx, time.Minute) {
			_ = ensure() // somebody may delete the Secret; it was logged
		}
	}()
	config := &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: c.certificate, ClientAuth: tls.RequireAndVerifyClientCert}
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now := config.Clone()
		now.ClientCAs, now.GetConfigForClient = clients.Load(), nil
		return now, nil
	}
	mux := http.NewServeMux()
	mux.Handle("GET /traefik", c.engine)
	return serve(ctx, tls.NewListener(l, config), mux)
}
