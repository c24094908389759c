//go:build linux

package main

import (
	"context"
	"maps"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/dns"
	"github.com/tulle-mesh/tulle/internal/firsthop"
	"github.com/tulle-mesh/tulle/internal/push"
)

// names is the config as the mesh DNS sees it where another proxy carries the traffic: a push.Applier and a dns.View. A
// state is immutable; Apply is called by one goroutine.
type names struct{ now atomic.Pointer[nameState] }

type nameState struct {
	mesh      *configv1.Mesh
	services  map[string]*configv1.Service
	endpoints map[string]*configv1.Endpoints
}

func newNames() *names {
	n := &names{}
	n.now.Store(&nameState{services: map[string]*configv1.Service{}, endpoints: map[string]*configv1.Endpoints{}})
	return n
}

// Apply implements push.Applier.
func (n *names) Apply(u configv1.Update) []configv1.Refusal {
	old := n.now.Load()
	next := &nameState{mesh: old.mesh, services: maps.Clone(old.services), endpoints: maps.Clone(old.endpoints)}
	for _, k := range u.Removed {
		switch k.Type {
		case configv1.ServiceType:
			delete(next.services, k.Name)
		case configv1.EndpointsType:
			delete(next.endpoints, k.Name)
		}
	}
	for _, r := range u.Set {
		switch m := r.Message.(type) {
		case *configv1.Mesh:
			next.mesh = m
		case *configv1.Service:
			next.services[r.Name] = m
		case *configv1.Endpoints:
			next.endpoints[r.Name] = m
		}
	}
	n.now.Store(next)
	return nil
}

// Mesh implements dns.View.
func (n *names) Mesh() *configv1.Mesh { return n.now.Load().mesh }

// Service implements dns.View. Whether the other proxy has a listener is not known here: what has an address is open.
func (n *names) Service(namespace, name, pod string) (*configv1.Service, bool) {
	key := namespace + "/" + name
	if pod != "" {
		key += "/" + pod
	}
	s := n.now.Load().services[key]
	return s, len(s.GetAddresses()) > 0
}

// Endpoints implements dns.View.
func (n *names) Endpoints(namespace, name string) *configv1.Endpoints {
	return n.now.Load().endpoints[namespace+"/"+name]
}

// serveNames is the mesh DNS alone. When it is told to stop it serves on for as long as the proxy beside it does.
func (o *options) serveNames(ctx context.Context) error {
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	view, registry := newNames(), prometheus.NewRegistry()
	client := push.NewClient(push.ClientConfig{
		Addr: o.controller, ServerName: o.controllerName, CAFile: o.caFile, TokenFile: o.tokenFile, Applier: view, Log: o.log,
		Store: o.storeOf(),
	})
	server, err := dns.New(dns.Config{View: view, Nameserver: "tulle-dns." + o.podNamespace, Pod: o.podName, TTL: o.dnsTTL, Registerer: registry})
	if err != nil {
		return err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", o.dnsAddress)
	if err != nil {
		return err
	}
	p, err := lc.ListenPacket(ctx, "udp", l.Addr().String())
	if err != nil {
		l.Close()
		return err
	}
	g, running := errgroup.WithContext(running)
	g.Go(func() error { return server.Run(running, l, p) })
	g.Go(func() error { return client.Run(running) })
	g.Go(func() error { return serveHTTP(running, o.healthAddress, namesHealth(client, ctx.Done())) })
	g.Go(func() error {
		mux := http.NewServeMux()
		mux.Handle("GET "+firsthop.Path, firsthop.Handler(o.podName))
		return serveHTTP(running, o.adminAddress, mux)
	})
	g.Go(func() error {
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
		return serveHTTP(running, o.metricsAddress, mux)
	})
	g.Go(func() error {
		defer cancel()
		select {
		case <-running.Done():
			return nil
		case <-ctx.Done():
			server.Leave()
		}
		select {
		case <-running.Done():
		case <-time.After(min(o.stopWait+o.stopLag, o.stopLimit)):
		}
		return nil
	})
	return g.Wait()
}

func (o *options) storeOf() *push.Store {
	if o.store == "" {
		return nil
	}
	return &push.Store{Path: o.store}
}

// namesHealth is ready once there is a config, from a controller or from the disk, until it is to stop: as long as the pod
// is ready, kube-proxy leaves flows of UDP here.
func namesHealth(client *push.Client, stopping <-chan struct{}) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		select {
		case <-stopping:
			http.Error(w, "stopping", http.StatusServiceUnavailable)
			return
		default:
		}
		select {
		case <-client.Ready():
			w.WriteHeader(http.StatusOK)
		default:
			http.Error(w, "no config yet", http.StatusServiceUnavailable)
		}
	})
	return mux
}
