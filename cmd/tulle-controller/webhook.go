package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/kube"
	"github.com/tulle-mesh/tulle/internal/webhook"
)

// turnover is how long the API server must have been told to trust a new CA before it is shown a certificate of it: there
// may be several API servers.
const turnover = 5 * time.Second

// webhookCertificate is what the API server is shown. When the CA is replaced, the certificate stays one of the old CA
// until the API server trusts the new one.
type webhookCertificate struct {
	names   []string
	trusted func(ca []byte) bool

	mu      sync.Mutex
	now     *identity.Serving
	ca      []byte // of now
	next    *identity.CA
	trusts  time.Time // since when next is trusted
	current []byte    // the newest CA
}

// use takes a CA into use.
func (c *webhookCertificate) use(ca *identity.CA) {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.current
	c.current = ca.CertPEM()
	switch {
	case c.now == nil:
		c.turn(ca)
	case bytes.Equal(c.ca, c.current):
		c.next = nil
	case !bytes.Equal(was, c.current):
		c.next, c.trusts = ca, time.Time{}
	}
}

func (c *webhookCertificate) turn(ca *identity.CA) {
	c.now, c.ca, c.next = identity.NewServing(ca, c.names...), ca.CertPEM(), nil
}

// newest is the CA that the API server is to trust; nil if there is none yet.
func (c *webhookCertificate) newest() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current
}

func (c *webhookCertificate) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	s := c.serving(time.Now())
	if s == nil {
		return nil, errors.New("there is no CA yet")
	}
	return s.GetCertificate(hello)
}

func (c *webhookCertificate) serving(now time.Time) *identity.Serving {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.next == nil:
	case !c.trusted(c.next.CertPEM()):
		c.trusts = time.Time{}
	case c.trusts.IsZero():
		c.trusts = now
	case now.Sub(c.trusts) >= turnover:
		c.turn(c.next)
	}
	return c.now
}

func (c *command) newWebhook() *webhook.Handler {
	return webhook.New(webhook.Config{Foreign: c.source.Foreign, Judge: c.loop.Judge, Log: c.log})
}

// serveWebhook answers the API server until ctx ends, and for some time longer: until it knows that this replica is gone.
func (c *command) serveWebhook(ctx context.Context, l net.Listener) error {
	s := &http.Server{
		Handler: c.webhook, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute,
		TLSConfig: &tls.Config{GetCertificate: c.shown.get, MinVersion: tls.VersionTLS12},
	}
	late := context.WithoutCancel(ctx)
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		wait(late, c.webhookStopLag)
		limited, cancel := context.WithTimeout(late, 2*time.Second)
		defer cancel()
		_ = s.Shutdown(limited) // what has not ended by then is cut off
	})
	defer stop()
	if err := s.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve webhooks on %s: %w", l.Addr(), err)
	}
	<-ended
	return nil
}

// newWebhooks is for the leader.
func (c *command) newWebhooks() *kube.Webhooks {
	return &kube.Webhooks{
		Client: c.clients.Read, Dynamic: c.clients.Dynamic, Namespace: c.podNamespace, CA: c.shown.newest, Log: c.log, Off: c.webhookAddress == "",
	}
}
