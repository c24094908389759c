// Package standalone runs the whole pipeline of the mesh without Kubernetes, on the loopback: objects from files, the
// topology, the config, the data plane and the mesh DNS. Identities are simulated: a caller is who its loopback
// address says.
//
// A Mesh is run once; Run owns all goroutines. States are immutable.
package standalone

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/dns"
	"github.com/tulle-mesh/tulle/internal/files"
	"github.com/tulle-mesh/tulle/internal/observed"
	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// proxyName names the one proxy, whose Callers are the pods of the files.
const proxyName = "standalone"

// ErrNotLoopback is returned for an address that other machines could reach: simulated identities are no protection.
var ErrNotLoopback = errors.New("not a loopback address, and identities are simulated: other machines could call as anybody")

// Config says what to run. The zero value of a field is its default.
type Config struct {
	Dir         string              // the folder with the YAML files
	Zones       []string            // default "mesh"
	DNSAddress  netip.AddrPort      // default 127.0.0.1:15353, or any free port if that is taken
	DefaultMode topology.Protocol   // default HTTP
	Access      topology.AccessMode // of namespaces that say nothing; default off
	Proxy       proxy.Config        // the data plane's own settings
	Loopback    files.Loopback
}

// Mesh is a standalone mesh.
type Mesh struct {
	config  Config
	source  *files.Source
	proxy   *proxy.Proxy
	dns     *dns.Server
	tcp     net.Listener
	udp     net.PacketConn
	applied applied // owned by Run
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
		return nil, fmt.Errorf("mesh DNS on %s: %w", c.DNSAddress, ErrNotLoopback)
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
	c.Proxy.Sockets = loopback{cmp.Or[proxy.Sockets](c.Proxy.Sockets, proxy.Kernel{})}
	m.proxy = proxy.New(c.Proxy)
	if m.dns, err = dns.New(dns.Config{View: m.proxy, Nameserver: "localhost"}); err != nil {
		return nil, errors.Join(err, m.tcp.Close(), m.udp.Close())
	}
	m.applied = applied{refused: map[configv1.Key][]configv1.Refusal{}, busy: map[files.Socket]bool{}}
	m.state.Store(&State{DNS: m.tcp.Addr().String()})
	return m, nil
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

// Observed is what was called in audit mode since New.
func (m *Mesh) Observed() observed.Report {
	r := m.proxy.Observed(nil)
	r.Pod = proxyName
	return r
}

func (m *Mesh) follow(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.source.Changed():
		}
		m.apply()
		select {
		case m.changed <- struct{}{}:
		default:
		}
	}
}
