package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/tulle-mesh/tulle/internal/bypass"
	"github.com/tulle-mesh/tulle/internal/controller"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/kube"
	"github.com/tulle-mesh/tulle/internal/proxyconfig"
	"github.com/tulle-mesh/tulle/internal/push"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/topology"
	"github.com/tulle-mesh/tulle/internal/version"
)

// command is the controller, as its flags say.
type command struct {
	*options
	topology topology.Config
	shadow   shadow.Config
	names    proxyconfig.Config
	bypass   bypass.Config

	traefik bool // carries the traffic
	engine  *engine

	clients *kube.Clients
	source  *kube.Source
	server  *push.Server
	loop    *controller.Controller
	metrics *prometheus.Registry
	serving atomic.Pointer[identity.Serving] // set before the server serves
	ca      *identity.CA                     // owned by push's goroutines, one after the other

	shown   *webhookCertificate
	webhook http.Handler
}

// run is the whole process.
func (c *command) run(ctx context.Context) (err error) {
	tuneMemory()
	if c.clients, err = c.connect(kube.ClientsConfig{WriteQPS: c.writeQPS, WriteBurst: c.writeBurst}); err != nil {
		return err
	}
	listeners, err := c.listen(ctx)
	if err != nil {
		return err
	}
	c.wire()
	return c.serve(ctx, listeners)
}

// serve runs the parts until ctx ends, or one of them fails.
func (c *command) serve(ctx context.Context, listeners *listeners) error {
	parts := []func(context.Context) error{
		c.source.Run, c.loop.Run,
		func(ctx context.Context) error { return c.push(ctx, listeners.push) },
		func(ctx context.Context) error { return c.elector().Run(ctx, c.lead) },
	}
	if c.traefik {
		parts = append(parts, func(ctx context.Context) error { return c.serveTraefik(ctx, listeners.traefik) })
	}
	if listeners.webhook != nil {
		parts = append(parts, func(ctx context.Context) error { return c.serveWebhook(ctx, listeners.webhook) })
	}
	if listeners.admin != nil {
		parts = append(parts, func(ctx context.Context) error { return serve(ctx, listeners.admin, adminHandler(c.podName)) })
	}
	return c.together(ctx, &listeners.doors, c.ready, c.metrics, parts...)
}

// wire makes the parts.
func (c *command) wire() {
	c.source = kube.NewSource(kube.SourceConfig{Client: c.clients.Read, Dynamic: c.clients.Dynamic, Namespace: c.podNamespace, Pod: c.podName, Log: c.log, Trust: c.identity.mode == identityTulle})
	c.server = push.NewServer(push.ServerConfig{
		Certificate:   c.certificate,
		Authenticator: &kube.Authenticator{Client: c.clients.Read, Namespace: c.podNamespace, Audience: kube.Audience, Pods: c.source},
		Log:           c.log,
	})
	c.metrics = c.newMetrics()
	c.metrics.MustRegister(c.server)
	c.loop = c.newLoop()
	host := kube.WebhookService + "." + c.podNamespace + ".svc"
	c.shown = &webhookCertificate{names: []string{host, host + "." + c.clusterDomain}, trusted: c.source.Trusts}
	webhooks := c.newWebhook()
	c.metrics.MustRegister(webhooks.Collector())
	c.webhook = webhooks
}

// push serves config once there is a certificate to show.
func (c *command) push(ctx context.Context, l net.Listener) error {
	for c.ensureCA(ctx) != nil {
		if !wait(ctx, 2*time.Second) {
			return nil
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.server.Serve(ctx, l) })
	g.Go(func() error {
		// Somebody may delete the certificate that new proxies wait for, or the CA itself.
		for wait(ctx, time.Minute) {
			_ = c.ensureCA(ctx)
		}
		return nil
	})
	return g.Wait()
}

// ensureCA sees to it that there is a CA, and that this replica's certificate is by it.
func (c *command) ensureCA(ctx context.Context) error {
	ca, err := kube.EnsureCA(ctx, c.clients.Read, c.podNamespace)
	if err != nil {
		if ctx.Err() == nil {
			c.log.Warn("CA not ensured", "err", err)
		}
		return err
	}
	c.shown.use(ca)
	c.shown.serving(time.Now()) // it may be time for a certificate of it
	if old := c.ca; old == nil || !bytes.Equal(old.CertPEM(), ca.CertPEM()) {
		host := "tulle-controller." + c.podNamespace + ".svc"
		c.ca = ca
		c.serving.Store(identity.NewServing(ca, host, host+"."+c.clusterDomain))
	}
	return nil
}

func (c *command) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.serving.Load().GetCertificate(hello)
}

func (c *command) elector() kube.Elector {
	return kube.Elector{Client: c.clients.Read, Namespace: c.podNamespace, Pod: c.podName, Log: c.log, Lease: c.lease, Renew: c.renew, Retry: c.retry}
}

func (c *command) newLoop() *controller.Controller {
	config := controller.Config{
		Topology: c.topology, Shadow: c.shadow, ProxyConfig: c.names,
		Source: c.source, Publisher: c.server, Proxies: proxies{c.server},
		Writer:   kube.NewWriter(kube.WriterConfig{Client: c.clients.Write, Namespace: c.podNamespace, Source: c.source}),
		Reporter: kube.NewReporter(kube.ReporterConfig{Client: c.clients.Events, Pod: c.podName}),
		Recorder: &kube.Recorder{Client: c.clients.Read, Namespace: c.podNamespace, Source: c.source},
		Log:      c.log, Metrics: controller.NewMetrics(c.metrics), Pod: c.podName, Version: version.Version,
		Quiet: c.quiet, MaxWait: c.maxWait, IdentityLifetime: c.identityLifetime,
		Bypass: c.bypass, Policies: &kube.PolicyWriter{Client: c.clients.Policies}, Dial: dial,
		DNS: c.source.DNS,
	}
	c.tellTrust(&config)
	if c.traefik {
		c.engine = &engine{zones: c.names.Zones}
		config.Engine = c.engine
	}
	return controller.New(config)
}

// dial says whether a connection could be opened. What a NetworkPolicy forbids is mostly dropped, and takes all of the time.
func dial(ctx context.Context, address netip.AddrPort) bool {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address.String())
	if err != nil {
		return false
	}
	_ = conn.Close() // nothing was sent
	return true
}

// lead runs what only the leader does.
func (c *command) lead(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.loop.Lead(ctx) })
	g.Go(func() error { return c.newWebhooks().Run(ctx) })
	return g.Wait()
}

// ready says why this replica should get no proxies yet.
func (c *command) ready() error {
	select {
	case <-c.source.Ready():
	default:
		return errors.Join(errors.New("the cluster's objects are being read"), c.source.Waiting())
	}
	if !c.loop.Ready() {
		return errors.New("no config was made yet")
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// tuneMemory spends memory, up to what a controller may have, on collecting garbage less often: every round makes as
// much as it keeps. The usual variables win.
func tuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(300)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(400 << 20)
	}
}

// listeners are what a controller listens on.
type listeners struct {
	doors
	push, webhook, admin, traefik net.Listener
}

func (c *command) listen(ctx context.Context) (*listeners, error) {
	l := &listeners{}
	all := append(c.listeners(&l.doors), listener{"push-address", c.pushAddress, &l.push},
		listener{"webhook-address", c.webhookAddress, &l.webhook}, listener{"admin-address", c.adminAddress, &l.admin})
	if c.traefik {
		all = append(all, listener{"traefik-address", c.traefikAddress, &l.traefik})
	}
	return l, open(ctx, all...)
}
