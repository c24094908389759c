// Package standalone runs the whole pipeline of the mesh without Kubernetes, on the loopback: objects from files, the
// topology, the config, the data plane and the mesh DNS. Identities are simulated: a caller is who its loopback
// address says.
//
// A Mesh is run once; Run owns all goroutines. States are immutable.
package standalone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"

	"golang.org/x/sync/errgroup"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/dns"
	"github.com/tulle-mesh/tulle/internal/files"
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxyconfig"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// proxyName names the one proxy, whose Callers are the pods of the files.
const proxyName = "standalone"

// ErrNotLoopback is returned for an address that other machines could reach: simulated identities are no protection.
var ErrNotLoopback = errors.New("not a loopback address")

// Config says what to run. The zero value of a field is its default.
type Config struct {
	Dir         string            // the folder with the YAML files
	Zones       []string          // default "mesh"
	DNSAddress  netip.AddrPort    // default 127.0.0.1:15353, or any free port if that is taken
	DefaultMode topology.Protocol // default HTTP
	Proxy       proxy.Config      // the data plane's own settings
	Loopback    files.Loopback
	Log         *slog.Logger
}

// Mesh is a standalone mesh.
type Mesh struct {
	config  Config
	source  *files.Source
	proxy   *proxy.Proxy
	dns     *dns.Server
	tcp     net.Listener
	udp     net.PacketConn
	applied []configv1.Resource
	state   atomic.Pointer[State]
	changed chan struct{}
}

// New reads the files and opens the mesh DNS's sockets.
func New(ctx context.Context, c Config) (*Mesh, error) {
	if len(c.Zones) == 0 {
		c.Zones = []string{"mesh"}
	}
	fallback := !c.DNSAddress.IsValid()
	if fallback {
		c.DNSAddress = netip.MustParseAddrPort("127.0.0.1:15353")
	}
	if !c.DNSAddress.Addr().IsLoopback() {
		return nil, fmt.Errorf("DNS on %s: %w", c.DNSAddress, ErrNotLoopback)
	}
	source, err := files.Open(c.Dir)
	if err != nil {
		return nil, err
	}
	m := &Mesh{config: c, source: source, changed: make(chan struct{}, 1)}
	m.tcp, m.udp, err = listenDNS(ctx, c.DNSAddress, fallback)
	if err != nil {
		return nil, err
	}
	m.proxy = proxy.New(c.Proxy)
	if m.dns, err = dns.New(dns.Config{View: m.proxy, Nameserver: "localhost"}); err != nil {
		return nil, errors.Join(err, m.tcp.Close(), m.udp.Close())
	}
	m.state.Store(&State{DNS: m.tcp.Addr().String()})
	return m, nil
}

// listenDNS opens TCP and UDP on one port.
func listenDNS(ctx context.Context, address netip.AddrPort, fallback bool) (net.Listener, net.PacketConn, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address.String())
	if errors.Is(err, syscall.EADDRINUSE) && fallback {
		l, err = lc.Listen(ctx, "tcp", netip.AddrPortFrom(address.Addr(), 0).String())
	}
	if err != nil {
		return nil, nil, fmt.Errorf("mesh DNS: %w", err)
	}
	p, err := lc.ListenPacket(ctx, "udp", l.Addr().String())
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("mesh DNS: %w", err), l.Close())
	}
	return l, p, nil
}

// Run serves until ctx ends.
func (m *Mesh) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.source.Run(ctx) })
	g.Go(func() error { return m.proxy.Run(ctx) })
	g.Go(func() error { return m.dns.Run(ctx, m.tcp, m.udp) })
	g.Go(func() error { return m.follow(ctx) })
	return g.Wait()
}

// Changed is signalled after State changed; latest wins.
func (m *Mesh) Changed() <-chan struct{} { return m.changed }

// State returns what is served now.
func (m *Mesh) State() State { return *m.state.Load() }

func (m *Mesh) follow(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.source.Changed():
		}
		if err := m.apply(); err != nil {
			return err
		}
		select {
		case m.changed <- struct{}{}:
		default:
		}
	}
}

// apply takes the files' current content into use.
func (m *Mesh) apply() error {
	resources := m.source.Snapshot().Resources
	t, problems := topology.Build(topology.Config{
		DefaultMode:      m.config.DefaultMode,
		AllowedEndpoints: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
	}, resources)
	assigned := files.Assign(t, m.config.Loopback)
	config, err := m.build(t, assigned)
	if err != nil {
		return err
	}
	refusals := m.proxy.Apply(configv1.Diff(m.applied, config))
	m.applied = config
	for _, r := range refusals {
		problems = append(problems, problem.Problem{Object: refOf(r.Key), Reason: problem.RefusedByProxy, Message: r.Reason})
	}
	slices.SortFunc(problems, problem.Problem.Compare)
	m.state.Store(&State{DNS: m.tcp.Addr().String(), Services: serving(t, assigned, refusals), Problems: problems})
	return nil
}

func (m *Mesh) build(t topology.Topology, assigned shadow.Assigned) ([]configv1.Resource, error) {
	config, err := proxyconfig.Build(proxyconfig.Config{Zones: m.config.Zones}, t, assigned)
	if err != nil {
		return nil, err
	}
	// Wherever the files say that pods run: they all call from here.
	t.Callers = slices.Clone(t.Callers)
	for i := range t.Callers {
		t.Callers[i].Node = ""
	}
	mine, err := proxyconfig.Proxies(t, []shadow.Proxy{{Pod: proxyName}}, map[string]bool{proxyName: true})
	if err != nil {
		return nil, err
	}
	config = append(config, mine[proxyName]...)
	slices.SortFunc(config, func(a, b configv1.Resource) int { return a.Compare(b.Key) })
	return config, nil
}
