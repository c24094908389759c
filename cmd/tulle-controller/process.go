package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/tulle-mesh/tulle/internal/flagenv"
	"github.com/tulle-mesh/tulle/internal/kube"
	"github.com/tulle-mesh/tulle/internal/version"
)

// process is what every process of this program has, the controllers and what runs with an account of its own: who it is,
// the API server, a log, health and metrics.
type process struct {
	component string // the label app.kubernetes.io/component of its pods, e.g. "controller"
	stderr    io.Writer

	kubeconfig, podName, podNamespace string
	metricsAddress, healthAddress     string
	logLevel, logFormat               string

	log *slog.Logger // set by check
}

func (p *process) addFlags(f *pflag.FlagSet) {
	f.StringVar(&p.kubeconfig, "kubeconfig", "", "file that says how to reach the API server (default: the pod's own ServiceAccount)")
	f.StringVar(&p.podName, "pod-name", "", "name of this pod (default: the host's name)")
	f.StringVar(&p.podNamespace, "pod-namespace", "tulle-system", "namespace of this pod: the mesh's")
	f.StringVar(&p.metricsAddress, "metrics-address", ":15014", "address of /metrics")
	f.StringVar(&p.healthAddress, "health-address", ":15015", "address of /readyz and /healthz")
	f.StringVar(&p.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&p.logFormat, "log-format", "json", "json or text")
}

// check checks these flags and makes the log. Every error names the flag.
func (p *process) check() (err error) {
	if p.log, err = p.logger(); err != nil {
		return err
	}
	if p.podName == "" {
		if p.podName, err = os.Hostname(); err != nil {
			return fmt.Errorf("--pod-name: %w", err)
		}
	}
	return nil
}

func (p *process) logger() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(p.logLevel)); err != nil {
		return nil, fmt.Errorf("--log-level %q: want debug, info, warn or error", p.logLevel)
	}
	text, err := oneOf("log-format", p.logFormat, "json", "text")
	if err != nil {
		return nil, err
	}
	if text {
		return slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: level})), nil
	}
	return slog.New(slog.NewJSONHandler(p.stderr, &slog.HandlerOptions{Level: level})), nil
}

// connect makes the clients. c says what else there is to say than who asks.
func (p *process) connect(c kube.ClientsConfig) (*kube.Clients, error) {
	// client-go tells a lot that is of interest to its authors only.
	klog.SetSlogLogger(slog.New(atLeast{p.log.Handler(), slog.LevelWarn}))
	c.Kubeconfig, c.UserAgent = p.kubeconfig, "tulle-"+p.component+"/"+version.Version
	return kube.NewClients(c)
}

// newMetrics returns a registry with what every process shows.
func (p *process) newMetrics() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tulle_build_info", Help: "Always 1; says which version runs.",
			ConstLabels: prometheus.Labels{"version": version.Version, "component": p.component},
		}, func() float64 { return 1 }))
	return r
}

// listener is an address to be opened.
type listener struct {
	flag, address string
	to            *net.Listener
}

// open opens the addresses, before anything else is done, so that one in use is an error at once. "" is none.
func open(ctx context.Context, all ...listener) error {
	var lc net.ListenConfig
	for _, l := range all {
		if l.address == "" {
			continue
		}
		var err error
		if *l.to, err = lc.Listen(ctx, "tcp", l.address); err != nil {
			return fmt.Errorf("--%s: %w", l.flag, err)
		}
	}
	return nil
}

// doors are where a process is asked how it is.
type doors struct{ metrics, health net.Listener }

// listeners are to be opened, with whatever else the process listens on.
func (p *process) listeners(d *doors) []listener {
	return []listener{{"metrics-address", p.metricsAddress, &d.metrics}, {"health-address", p.healthAddress, &d.health}}
}

// together runs the parts of the process, and what it is asked by, until ctx ends or one of them fails. ready says why it
// should get no work yet.
func (p *process) together(ctx context.Context, d *doors, ready func() error, metrics *prometheus.Registry, parts ...func(context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, part := range parts {
		g.Go(func() error { return part(ctx) })
	}
	g.Go(func() error { return serve(ctx, d.health, healthHandler(ready)) })
	g.Go(func() error { return serve(ctx, d.metrics, metricsHandler(metrics)) })
	p.log.Info("started", "version", version.Version, "name", p.podName, "namespace", p.podNamespace)
	err := g.Wait()
	p.log.Info("stopped", "name", p.podName)
	return err
}

// subcommand is a process of its own. run is called when its flags are set, also by the environment.
func subcommand(use, short string, addFlags func(*pflag.FlagSet), run func(context.Context) error) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := flagenv.Apply(cmd.Flags(), os.LookupEnv); err != nil {
				return err
			}
			return run(cmd.Context())
		},
	}
	addFlags(cmd.Flags())
	return cmd
}
