package proxy

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/observed"
	"github.com/tulle-mesh/tulle/internal/proxy/balance"
	"github.com/tulle-mesh/tulle/internal/proxy/drain"
	"github.com/tulle-mesh/tulle/internal/proxy/exchange"
	"github.com/tulle-mesh/tulle/internal/proxy/http1"
	"github.com/tulle-mesh/tulle/internal/proxy/http2"
	"github.com/tulle-mesh/tulle/internal/proxy/meter"
	"github.com/tulle-mesh/tulle/internal/proxy/policy"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/share"
	"github.com/tulle-mesh/tulle/internal/proxy/tcp"
	"github.com/tulle-mesh/tulle/internal/proxy/udp"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// Config is what a Proxy needs. The zero value of everything means the default.
type Config struct {
	Sockets    Sockets               // default Kernel
	Registerer prometheus.Registerer // default: metrics are counted but not shown
	AccessLog  *meter.AccessLog      // default: none
	Log        *slog.Logger          // default: discarded

	MaxSeries      int               // label sets per metric; default 10,000
	HeaderTimeout  time.Duration     // for the head of an HTTP request; default 10 s
	HTTPIdle       time.Duration     // between two requests of a connection; default 60 s
	MaxHeaderBytes int               // of the head of an HTTP request; default 64 KiB
	TCPIdle        time.Duration     // of TCP and upgraded connections, for ports that don't say otherwise; default 1 h
	UDPIdle        time.Duration     // of UDP flows, for ports that don't say otherwise; default 30 s
	MaxFlows       int               // UDP flows at a time, of all services; default 8,192
	DrainIdle      time.Duration     // how long HTTP connections without a request live on when draining; default 20 s
	ParkAfter      time.Duration     // how long a listener that nobody calls keeps a goroutine; default 1 s
	IdentityWait   time.Duration     // how long a call waits for who its caller is; default 5 s, negative: not at all
	Retries        balance.Allowance // of a service's requests, for each service; default 20% and 10 a second, negative: none
	Gateways       []netip.Addr      // of the proxy's network: addresses that are no pod's
	// Share bounds what clients may have at a time; beyond it those are refused whose namespace has more than its share.
	// Default 32,768 connections, 16,384 requests and 256 MiB, any number of new connections per second; negative: no limit.
	Share    share.Config
	Upstream upstream.Config
}

// Proxy is the data plane. See the package comment.
type Proxy struct {
	config Config
	meter  *meter.Meter
	set    *upstream.Set
	gate   *policy.Gate
	share  *share.Node
	http1  *http1.Server
	http2  *http2.Server
	tcp    *tcp.Server
	udp    *udp.Server
	now    atomic.Pointer[state] // never nil

	mu        sync.Mutex     // of those who change something: Apply, Run's retries, Drain
	strangers *share.Account // of clients that nobody knows

	listeners listeners   // guarded by mu
	draining  bool        // guarded by mu
	leaving   atomic.Bool // as draining, for the DNS view
	accepting sync.WaitGroup
	taken     atomic.Int64 // connections that were accepted, what came by tunnel, and what Used was told of
	parking   parking
}

// state is all config that is in use. It is immutable.
type state struct {
	table     *route.Table
	mesh      *configv1.Mesh // nil before the first
	proxy     *configv1.Proxy
	services  map[string]*configv1.Service
	endpoints map[string]*configv1.Endpoints
	open      map[socket]claim
	nodes     map[string]upstream.Reach // those with a proxy; none if the mesh has no identities
	changed   chan struct{}             // closed once there is a newer state
}

// New returns a Proxy that has no config yet.
func New(c Config) *Proxy {
	if c.Sockets == nil {
		c.Sockets = Kernel{}
	}
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	c.ParkAfter = cmp.Or(c.ParkAfter, time.Second)
	c.Share.Connections, c.Share.Requests = cmp.Or(c.Share.Connections, 32_768), cmp.Or(c.Share.Requests, 16_384)
	c.Share.Bytes = cmp.Or(c.Share.Bytes, 256<<20)
	c.Retries.Ratio, c.Retries.PerSecond = max(cmp.Or(c.Retries.Ratio, 0.2), 0), max(cmp.Or(c.Retries.PerSecond, 10), 0)
	p := &Proxy{
		config: c,
		meter:  meter.New(meter.Config{Registerer: c.Registerer, MaxSeries: c.MaxSeries, Log: c.AccessLog}),
		set:    upstream.NewSet(c.Upstream),
		share:  share.New(c.Share),
	}
	p.strangers = p.share.Account("")
	p.now.Store(&state{
		table: &route.Table{Services: map[string]*route.Service{}}, services: map[string]*configv1.Service{},
		endpoints: map[string]*configv1.Endpoints{}, open: map[socket]claim{}, nodes: map[string]upstream.Reach{}, changed: make(chan struct{}),
	})
	table := func() *route.Table { return p.now.Load().table }
	current := func() (*route.Table, <-chan struct{}) {
		s := p.now.Load()
		return s.table, s.changed
	}
	p.gate = policy.New(policy.Config{Current: current, Meter: p.meter, Log: c.Log, Wait: c.IdentityWait, Gateways: c.Gateways})
	shared := &exchange.Mesh{Table: table, Gate: p.gate, Meter: p.meter, Log: c.Log, Retries: c.Retries, Strangers: p.strangers}
	p.http2 = http2.New(http2.Config{
		Mesh: shared, HeaderTimeout: c.HeaderTimeout, IdleTimeout: c.HTTPIdle, MaxHeaderBytes: c.MaxHeaderBytes,
		DrainIdle: c.DrainIdle,
	})
	p.http1 = http1.New(http1.Config{
		Mesh: shared, HTTP2: p.http2.Serve, Fallback: p.http2.Forward,
		HeaderTimeout: c.HeaderTimeout, IdleTimeout: c.HTTPIdle, UpgradeIdle: c.TCPIdle, MaxHeaderBytes: c.MaxHeaderBytes,
		DrainIdle: c.DrainIdle,
	})
	p.tcp = tcp.New(tcp.Config{Table: table, Gate: p.gate, Meter: p.meter, Log: c.Log, IdleTimeout: c.TCPIdle})
	p.udp = udp.New(udp.Config{Table: table, Gate: p.gate, Meter: p.meter, Log: c.Log, IdleTimeout: c.UDPIdle, MaxFlows: c.MaxFlows})
	p.listeners = newListeners()
	p.meter.Watch(p.set)
	p.meter.WatchTenants(p.share)
	return p
}

// retryPorts is how often ports that could not be opened are tried again.
const retryPorts = time.Second

// Run serves until ctx ends; what is still being served then is cut. See Drain for the gentle way. It is called once.
func (p *Proxy) Run(ctx context.Context) error {
	stopLog := p.runLog()
	defer stopLog()
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 2)
	for _, run := range []func(context.Context) error{p.http1.Run, p.http2.Run} {
		go func() {
			ended <- run(running)
			cancel()
		}()
	}
	tick := time.NewTicker(retryPorts)
	defer tick.Stop()
	for running.Err() == nil {
		select {
		case <-running.Done():
		case <-tick.C:
			p.retry(running)
		}
	}
	p.closeAll()
	p.tcp.Cut()
	p.udp.Cut()
	p.accepting.Wait()
	err := errors.Join(<-ended, <-ended)
	p.set.Close()
	p.share.Close()
	return err
}

// runLog writes the access log until stop is called, which waits for what is pending.
func (p *Proxy) runLog() (stop func()) {
	if p.config.AccessLog == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var log sync.WaitGroup
	log.Go(func() {
		if err := p.config.AccessLog.Run(ctx); err != nil {
			p.config.Log.Error("access log ended", "err", err) // serving goes on without it
		}
	})
	return func() {
		cancel()
		log.Wait()
	}
}

// Ready says that the proxy has the settings of the mesh and its own resource, which is the last kind to come, so that
// all of the first config is in use.
func (p *Proxy) Ready() bool {
	s := p.now.Load()
	return s.mesh != nil && s.proxy != nil
}

// Observed is what was called in audit mode since the Proxy was made, as far as want accepts it; nil accepts all.
func (p *Proxy) Observed(want func(observed.Peers) bool) observed.Report {
	return p.gate.Observed(want)
}

// WaitOutOfSlices returns when no mesh address points at this proxy any more, by its own resource, or with ctx's error.
func (p *Proxy) WaitOutOfSlices(ctx context.Context) error {
	for {
		s := p.now.Load()
		if s.proxy != nil && !s.proxy.GetInSlices() {
			return nil
		}
		select {
		case <-s.changed:
		case <-ctx.Done():
			return ctx.Err() //nolint:wrapcheck // says all
		}
	}
}

// Used notes that somebody needs this proxy still, in a way that it doesn't see itself: WaitQuiet waits longer.
func (p *Proxy) Used() { p.taken.Add(1) }

// WaitQuiet returns when no connection was accepted for a while, and nothing was asked for by tunnel, or with ctx's error.
func (p *Proxy) WaitQuiet(ctx context.Context, while time.Duration) error {
	return drain.Quiet(ctx, p.taken.Load, while) //nolint:wrapcheck // ctx's
}

// ErrCut is returned by Drain when connections had to be ended for want of time.
var ErrCut = drain.ErrCut

// Drain stops accepting, asks HTTP connections to end (Connection: close, GOAWAY) and waits until nothing is being
// served any more. What is left when ctx ends is cut. Run goes on until its own context ends.
func (p *Proxy) Drain(ctx context.Context) error {
	p.stopAccepting()
	var wg sync.WaitGroup
	var http1Err, http2Err, tcpErr, udpErr error
	wg.Go(func() { http1Err = p.http1.Drain(ctx) })
	wg.Go(func() { http2Err = p.http2.Drain(ctx) })
	wg.Go(func() { tcpErr = p.tcp.Drain(ctx) })
	wg.Go(func() { udpErr = p.udp.Drain(ctx) })
	wg.Wait()
	return cmp.Or(http1Err, http2Err, tcpErr, udpErr)
}

var errDraining = errors.New("the proxy is draining")
