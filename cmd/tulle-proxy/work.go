//go:build linux

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/internal/dns"
	"github.com/tulle-mesh/tulle/internal/holder"
	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/meter"
	"github.com/tulle-mesh/tulle/internal/push"
)

// endLimit is how long the parts may take to end after all clients were served.
const endLimit = 2 * time.Second

// worker is the data plane with all that belongs to it.
type worker struct {
	*options
	held     *holder.Worker
	registry *prometheus.Registry
	proxy    *proxy.Proxy
	applied  *applied
	client   *push.Client
	dns      *dns.Server

	identities *identities // nil if there are to be none
}

// work is the worker's life: it serves until ctx is done, then lets go gently. Any part that ends before ends it.
func (o *options) work(ctx context.Context) error {
	held, err := holder.Attach()
	if err != nil {
		return fmt.Errorf("tulle-proxy worker: %w", err)
	}
	if held.Hello.Note == drainingNote {
		return nil
	}
	limitMemory(o.log)
	fewCollections(o.log)
	w, err := o.newWorker(held)
	if err != nil {
		return err
	}
	// What serves outlives the signal that ends ctx, and the heart beats to the very end.
	beating, stopBeating := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBeating()
	running, cancel := context.WithCancelCause(beating)
	defer cancel(nil)
	go func() {
		if err := held.Beat(beating, w.alive); err != nil {
			cancel(err)
		}
	}()
	ended, err := w.start(running, cancel)
	if err != nil {
		return err
	}
	err = cmp.Or(w.live(ctx, running), context.Cause(running))
	cancel(nil)
	select {
	case <-ended:
	case <-time.After(endLimit): // The next worker shall not wait for what this one can't end.
		o.log.Warn("some parts did not end in time")
	}
	return err
}

// start starts the parts; the first that fails cancels all. The channel is closed when they have ended.
func (w *worker) start(ctx context.Context, cancel context.CancelCauseFunc) (<-chan struct{}, error) {
	serveDNS, err := w.listenDNS(ctx)
	if err != nil {
		return nil, err
	}
	serveTunnels, err := w.identities.listen(ctx, w)
	if err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	for _, part := range append(w.parts(), serveDNS, serveTunnels, w.identities.run) {
		wg.Go(func() {
			if err := part(ctx); err != nil {
				cancel(err)
			}
		})
	}
	ended := make(chan struct{})
	go func() {
		wg.Wait()
		close(ended)
	}()
	return ended, nil
}

func (o *options) newWorker(held *holder.Worker) (w *worker, err error) {
	w = &worker{options: o, held: held, registry: prometheus.NewRegistry()}
	config := proxy.Config{Sockets: held, Registerer: w.registry, Log: o.log, IdentityWait: o.identityWait, Gateways: gateways()}
	o.resilience.set(&config)
	if o.identityWait <= 0 {
		config.IdentityWait = -1
	}
	if o.accessLog {
		config.AccessLog = meter.NewAccessLog(o.stdout)
	}
	if w.identities, err = w.newIdentities(); err != nil {
		return nil, err
	}
	if w.identities != nil {
		config.Upstream.Tunnels = w.identities.tunnels
	}
	w.proxy = proxy.New(config)
	w.identities.serve(w)
	w.applied = newApplied(w.appliers())
	w.client = push.NewClient(push.ClientConfig{
		Addr: o.controller, ServerName: o.controllerName, CAFile: o.caFile, TokenFile: o.tokenFile,
		Applier: w.applied, Store: w.stored(), Log: o.log,
	})
	server, err := dns.New(dns.Config{
		View: w.proxy, Nameserver: "tulle-dns." + o.podNamespace, Pod: o.podName, TTL: o.dnsTTL, Registerer: w.registry,
		Asked: w.proxy.Used, // whose kube-proxy has not heard yet asks a proxy that stops
	})
	if err != nil {
		return nil, err
	}
	w.dns = server
	w.registerMetrics()
	return w, nil
}

// parts are what runs as long as the worker.
func (w *worker) parts() []func(context.Context) error {
	return []func(context.Context) error{
		w.proxy.Run,
		w.client.Run,
		func(ctx context.Context) error { return serveHTTP(ctx, w.metricsAddress, w.metricsHandler()) },
		func(ctx context.Context) error { return serveHTTP(ctx, w.adminAddress, w.adminHandler()) },
	}
}

// alive returns when the worker could serve: it looks a name up as every query does.
func (w *worker) alive() { w.proxy.Service("", "", "") }

// listenDNS takes the DNS sockets. It comes before all that could give up what nobody has asked for.
func (w *worker) listenDNS(ctx context.Context) (func(context.Context) error, error) {
	l, err := w.held.Listen(ctx, w.dnsAddress)
	if err != nil {
		return nil, fmt.Errorf("serve DNS: %w", err)
	}
	p, err := w.held.ListenPacket(ctx, w.dnsAddress)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("serve DNS: %w", err)
	}
	return func(ctx context.Context) error { return w.dns.Run(ctx, l, p) }, nil
}

// serveHTTP serves until ctx is done.
func serveHTTP(ctx context.Context, address string, h http.Handler) error {
	if address == "" {
		return nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("serve HTTP: %w", err)
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP on %s: %w", address, err)
	}
	return nil
}
