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

// The stored config may be what workers crash with. From distrustStore crashes in a row on, every second worker does
// without it and gives the controller distrustWait to send a better one.
const (
	distrustStore = 3
	distrustWait  = 5 * time.Second
)

// settleAfter is how long sockets that the stored config doesn't know are kept for the controller's word on them.
const settleAfter = 30 * time.Second

var errNoController = errors.New("no controller sent a config: the stored one is tried again")

// worker is the data plane with all that belongs to it.
type worker struct {
	*options
	held     *holder.Worker
	registry *prometheus.Registry
	proxy    *proxy.Proxy
	applied  *applied
	client   *push.Client
	dns      *dns.Server
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
	w, err := o.newWorker(held)
	if err != nil {
		return err
	}
	// What serves outlives the signal that ends ctx.
	running, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, part := range w.parts() {
		wg.Go(func() {
			if err := part(running); err != nil {
				cancel(err)
			}
		})
	}
	err = cmp.Or(w.live(ctx, running), context.Cause(running))
	cancel(nil)
	wg.Wait()
	return err
}

func (o *options) newWorker(held *holder.Worker) (*worker, error) {
	w := &worker{options: o, held: held, registry: prometheus.NewRegistry()}
	config := proxy.Config{Sockets: held, Registerer: w.registry, Log: o.log}
	if o.accessLog {
		config.AccessLog = meter.NewAccessLog(o.stdout)
	}
	w.proxy = proxy.New(config)
	w.applied = newApplied(w.proxy)
	w.client = push.NewClient(push.ClientConfig{
		Addr: o.controller, ServerName: o.controllerName, CAFile: o.caFile, TokenFile: o.tokenFile,
		Applier: w.applied, Store: w.stored(), Log: o.log,
	})
	server, err := dns.New(dns.Config{
		View: w.proxy, Nameserver: "tulle-dns." + o.podNamespace, TTL: o.dnsTTL, Registerer: w.registry,
	})
	if err != nil {
		return nil, err
	}
	w.dns = server
	w.registerMetrics()
	return w, nil
}

// stored is where the last good config is kept; nil if there is to be none or it isn't trusted.
func (w *worker) stored() *push.Store {
	if w.store == "" {
		return nil
	}
	if w.distrusts() {
		w.log.Warn("the stored config is left alone: workers crashed with it", "crashes", w.held.Hello.Crashes)
		return nil
	}
	return &push.Store{Path: w.store}
}

func (w *worker) distrusts() bool {
	crashes := w.held.Hello.Crashes
	return crashes >= distrustStore && crashes%2 == distrustStore%2
}

// parts are what runs as long as the worker.
func (w *worker) parts() []func(context.Context) error {
	return []func(context.Context) error{
		func(ctx context.Context) error { return w.held.Beat(ctx, w.alive) },
		w.proxy.Run,
		w.client.Run,
		w.serveDNS,
		func(ctx context.Context) error { return serveHTTP(ctx, w.metricsAddress, w.metricsHandler()) },
		func(ctx context.Context) error { return serveHTTP(ctx, w.adminAddress, w.adminHandler()) },
	}
}

// alive returns when the worker could serve: it looks a name up as every query does.
func (w *worker) alive() { w.proxy.Service("", "", "") }

func (w *worker) serveDNS(ctx context.Context) error {
	l, err := w.held.Listen(ctx, w.dnsAddress)
	if err != nil {
		return fmt.Errorf("serve DNS: %w", err)
	}
	p, err := w.held.ListenPacket(ctx, w.dnsAddress)
	if err != nil {
		l.Close()
		return fmt.Errorf("serve DNS: %w", err)
	}
	return w.dns.Run(ctx, l, p)
}

// live waits for the things that happen once in a worker's life, in their order.
func (w *worker) live(signal, running context.Context) error {
	if ready, err := w.getReady(signal, running); !ready {
		return err
	}
	if since := w.held.Hello.Stopping; !since.IsZero() {
		w.stop(running, since)
		return nil
	}
	settle := time.NewTimer(settleAfter)
	defer settle.Stop()
	for synced := w.client.Synced(); ; {
		select {
		case <-synced:
			synced = nil
			w.settle()
		case <-settle.C:
			w.settle()
		case <-signal.Done():
			w.stop(running, time.Now())
			return nil
		case <-running.Done():
			return nil
		}
	}
}

// getReady waits for a whole config and tells the holder. It returns false if the worker is to end before.
func (w *worker) getReady(signal, running context.Context) (bool, error) {
	if !w.held.Hello.Stopping.IsZero() { // What another worker began to stop, this one may have to serve on for a while.
		var cancel context.CancelFunc
		signal, cancel = context.WithTimeout(running, w.stopWait)
		defer cancel()
	}
	var giveUp <-chan time.Time
	if w.distrusts() {
		giveUp = time.After(distrustWait)
	}
	select {
	case <-w.client.Ready():
	case <-giveUp:
		return false, errNoController
	case <-signal.Done():
		return false, nil
	case <-running.Done():
		return false, nil
	}
	if err := w.held.Ready(); err != nil {
		return false, err
	}
	w.log.Info("ready", "pod", w.podName, "node", w.nodeName, "version", w.client.Status().Version)
	return true, nil
}

func (w *worker) settle() {
	if err := w.held.Settle(); err != nil {
		w.log.Error("could not give up unused sockets", "err", err)
	}
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
