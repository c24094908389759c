package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"github.com/tulle-mesh/tulle/internal/corefile"
	"github.com/tulle-mesh/tulle/internal/kube"
	"github.com/tulle-mesh/tulle/internal/version"
)

// dnsWriter is the process that keeps the cluster's DNS, with an account of its own: the controllers may not write it.
type dnsWriter struct {
	process

	zones          []string
	clusterDomain  string
	mode           string
	configMaps     []string
	trial, restart bool

	config  kube.DNSConfig // set by complete
	clients *kube.Clients
	metrics *prometheus.Registry
	leading prometheus.Gauge
}

func newDNSCommand(stderr io.Writer) *cobra.Command {
	w := &dnsWriter{process: process{component: "dns", stderr: stderr}}
	return subcommand("dns", "Keep the mesh's zones in the configuration of the cluster's DNS", w.addFlags, w.run)
}

func (w *dnsWriter) addFlags(f *pflag.FlagSet) {
	w.process.addFlags(f)
	f.StringSliceVar(&w.zones, "zones", []string{"mesh"}, "DNS zones that lead into the mesh")
	f.StringVar(&w.clusterDomain, "cluster-domain", "cluster.local", "DNS domain of the cluster itself")
	f.StringVar(&w.mode, "dns-mode", "manage", "the stub domain in the cluster's DNS: manage or print")
	f.StringSliceVar(&w.configMaps, "dns-config-maps", nil, "ConfigMaps of the cluster's DNS that may be changed: namespace/name or namespace/name:key")
	f.BoolVar(&w.trial, "dns-trial", true, "start a pod of the cluster's DNS with a change before it is written")
	f.BoolVar(&w.restart, "dns-restart", false, "restart a cluster DNS that does not reload its configuration")
}

// complete checks the flags. Every error names the flag.
func (w *dnsWriter) complete() (err error) {
	if err = w.check(); err != nil {
		return err
	}
	w.config = kube.DNSConfig{Mode: kube.DNSMode(w.mode), ClusterDomain: w.clusterDomain, NoTrial: !w.trial, Restart: w.restart, Log: w.log}
	if !slices.Contains([]kube.DNSMode{kube.DNSManage, kube.DNSPrint}, w.config.Mode) {
		return fmt.Errorf("--dns-mode %q: want manage or print", w.mode)
	}
	if w.config.Zones, err = zones(w.zones); err != nil {
		return err
	}
	for _, text := range w.configMaps {
		object, key, _ := strings.Cut(text, ":")
		namespace, name, ok := strings.Cut(object, "/")
		if !ok || namespace == "" || name == "" {
			return fmt.Errorf("--dns-config-maps %q: want namespace/name or namespace/name:key", text)
		}
		w.config.ConfigMaps = append(w.config.ConfigMaps, corefile.Place{Namespace: namespace, Name: name, Key: key})
	}
	return nil
}

// run is the whole process.
func (w *dnsWriter) run(ctx context.Context) (err error) {
	if err = w.complete(); err != nil {
		return err
	}
	if w.clients, err = w.connect(kube.ClientsConfig{}); err != nil {
		return err
	}
	d := &doors{}
	if err := open(ctx, w.listeners(d)...); err != nil {
		return err
	}
	return w.serve(ctx, d)
}

// serve runs the parts until ctx ends, or one of them fails. Nothing waits for this process, so it is always ready: how it
// gets on is in what it writes down.
func (w *dnsWriter) serve(ctx context.Context, d *doors) error {
	w.leading = prometheus.NewGauge(prometheus.GaugeOpts{Name: "tulle_dns_writer_leader", Help: "1 if this replica keeps the cluster's DNS."})
	w.metrics = w.newMetrics()
	w.metrics.MustRegister(w.leading)
	elector := kube.Elector{Client: w.clients.Read, Namespace: w.podNamespace, Pod: w.podName, Name: kube.DNSWriter, Log: w.log}
	return w.together(ctx, d, func() error { return nil }, w.metrics, func(ctx context.Context) error { return elector.Run(ctx, w.lead) })
}

// lead keeps the cluster's DNS for as long as this replica leads.
func (w *dnsWriter) lead(ctx context.Context) error {
	w.leading.Set(1)
	defer w.leading.Set(0)
	config := w.config
	config.Client, config.Dynamic, config.Namespace = w.clients.DNS, w.clients.Dynamic, w.podNamespace
	manager := kube.NewDNSManager(config)
	recorder := kube.DNSRecorder{DNSAccess: config.DNSAccess, Manager: manager, Pod: w.podName, Version: version.Version, Log: w.log}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return manager.Run(ctx) })
	g.Go(func() error { return recorder.Run(ctx) })
	return g.Wait()
}
