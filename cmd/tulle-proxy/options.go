//go:build linux

package main

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/spf13/pflag"
)

// options are the flags of holder and worker.
type options struct {
	args           []string
	stdout, stderr io.Writer

	podName, podNamespace, nodeName string

	controller, controllerName string
	caFile, tokenFile, store   string

	identity, spireSocket, tunnelAddress          string
	identityAddress, identityTokenFile, trustFile string
	identityReadyWait                             time.Duration

	dnsAddress, metricsAddress, healthAddress, adminAddress string

	dnsTTL, identityWait                     time.Duration
	stopWait, stopLag, drainLimit, stopLimit time.Duration
	hangLimit, hangHardLimit, readyGrace     time.Duration

	resilience resilience

	accessLog           bool
	logLevel, logFormat string
	log                 *slog.Logger
}

func (o *options) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.podName, "pod-name", "", "name of this pod")
	f.StringVar(&o.podNamespace, "pod-namespace", "tulle-system", "namespace of this pod: the mesh's")
	f.StringVar(&o.nodeName, "node-name", "", "name of this pod's node")

	f.StringVar(&o.controller, "controller", "", "host:port of the controller (default tulle-controller.<pod namespace>.svc:15010)")
	f.StringVar(&o.controllerName, "controller-name", "", "DNS name that the controller's certificate must carry (default the host of --controller)")
	f.StringVar(&o.caFile, "ca-file", "/etc/tulle/ca/ca.crt", "CA of the controller's certificate, read at each connect")
	f.StringVar(&o.tokenFile, "token-file", "/var/run/secrets/tulle/token", "ServiceAccount token for the controller, read at each connect")
	f.StringVar(&o.store, "store", "/var/lib/tulle/config/last-good", `file that keeps the last good config for a restart of the container; "" = none`)

	f.StringVar(&o.identity, "identity", "tulle", "where identities come from: tulle (the mesh's own CA), spire (a SPIFFE Workload API) or off")
	f.StringVar(&o.identityAddress, "identity-address", "", "host:port of the mesh's own CA (default tulle-identity.<pod namespace>.svc:15012)")
	f.StringVar(&o.identityTokenFile, "identity-token-file", "/var/run/secrets/tulle/identity-token", "ServiceAccount token for the mesh's own CA, read for each request")
	f.StringVar(&o.trustFile, "trust-file", "/etc/tulle/trust/ca.crt", "roots by which the mesh's own CA is known, read at each connect: not those that the controller names")
	f.DurationVar(&o.identityReadyWait, "identity-ready-wait", time.Minute, "how long a new pod is not ready for want of a certificate of its own")
	f.StringVar(&o.spireSocket, "spire-socket", "unix:///run/spire/agent-sockets/spire-agent.sock", "address of the SPIFFE Workload API, for --identity=spire")
	f.StringVar(&o.tunnelAddress, "tunnel-address", ":15008", "address at which other nodes' proxies are served")

	f.StringVar(&o.dnsAddress, "dns-address", ":15053", "address of the mesh DNS, UDP and TCP")
	f.StringVar(&o.metricsAddress, "metrics-address", ":15020", "address of /metrics")
	f.StringVar(&o.healthAddress, "health-address", ":15021", "address of /readyz and /healthz")
	f.StringVar(&o.adminAddress, "admin-address", "127.0.0.1:15000", `address of /config, /status, /version, /observed, /first-hop and /debug/pprof; "" = none`)
	f.DurationVar(&o.dnsTTL, "dns-ttl", 5*time.Second, "how long clients may remember a mesh name's address")

	f.DurationVar(&o.identityWait, "identity-wait", 5*time.Second, "how long a call to a protected workload waits for who its caller is; 0 = not at all")

	f.DurationVar(&o.stopWait, "stop-wait", 20*time.Second, "when stopping: how long to wait, while no controller is connected, for its word that no mesh address points here")
	f.DurationVar(&o.stopLag, "stop-lag", 3*time.Second, "when stopping: go on accepting after that until nobody has connected, or asked for a name, for so long, for nodes that learn late")
	f.DurationVar(&o.drainLimit, "drain-limit", 25*time.Second, "when stopping: how long live connections may take to end after that")
	f.DurationVar(&o.stopLimit, "stop-limit", 85*time.Second, "when stopping: how long all of it may take; less than the pod's termination grace period")

	f.DurationVar(&o.hangLimit, "hang-limit", 400*time.Millisecond, "silence of a worker after which it is replaced; time without CPU isn't counted")
	f.DurationVar(&o.hangHardLimit, "hang-hard-limit", 10*time.Second, "silence of a worker after which it is replaced whatever the reason")
	f.DurationVar(&o.readyGrace, "ready-grace", 2*time.Second, "how long the proxy stays ready while its worker is replaced")

	o.resilience.addFlags(f)

	f.BoolVar(&o.accessLog, "access-log", false, "write a JSON line per request to standard output")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&o.logFormat, "log-format", "json", "json or text")
}

// complete checks the flags and fills in what follows from others.
func (o *options) complete() error {
	if o.controller == "" {
		o.controller = "tulle-controller." + o.podNamespace + ".svc:15010"
	}
	if err := o.resilience.check(); err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(o.controller)
	if err != nil {
		return fmt.Errorf("--controller %q: want host:port", o.controller)
	}
	if o.controllerName == "" {
		o.controllerName = host
	}
	if o.identityAddress == "" {
		o.identityAddress = "tulle-identity." + o.podNamespace + ".svc:15012"
	}
	if _, _, err := net.SplitHostPort(o.identityAddress); err != nil {
		return fmt.Errorf("--identity-address %q: want host:port", o.identityAddress)
	}
	if !slices.Contains([]string{"tulle", "spire", "off"}, o.identity) {
		return fmt.Errorf("--identity %q: want tulle, spire or off", o.identity)
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return fmt.Errorf("--log-level %q: want debug, info, warn or error", o.logLevel)
	}
	var handler slog.Handler
	switch o.logFormat {
	case "json":
		handler = slog.NewJSONHandler(o.stderr, &slog.HandlerOptions{Level: level})
	case "text":
		handler = slog.NewTextHandler(o.stderr, &slog.HandlerOptions{Level: level})
	default:
		return fmt.Errorf("--log-format %q: want json or text", o.logFormat)
	}
	o.log = slog.New(handler)
	return nil
}
