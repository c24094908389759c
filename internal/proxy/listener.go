package proxy

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/share"
	"github.com/tulle-mesh/tulle/internal/proxy/tcp"
)

// socket names a listening socket.
type socket struct {
	network string // "tcp" or "udp"
	address string // "host:port", the host may be empty
}

func socketOf(host string, port uint32, protocol configv1.Protocol) socket {
	network := "tcp"
	if protocol == configv1.Protocol_PROTOCOL_UDP {
		network = "udp"
	}
	return socket{network, net.JoinHostPort(host, strconv.FormatUint(uint64(port), 10))}
}

// claim is who wants a socket: a port of a service, or a shared listener (no service).
type claim struct {
	service string
	port    uint32
	target  uint32
	udp     bool
}

// listener is an open socket and what it stands for. The binding changes when another claim takes over the socket;
// connections keep the one that they were accepted for.
type listener struct {
	socket  socket
	binding atomic.Pointer[route.Binding]
	tcp     net.Listener // one of the two
	udp     *net.UDPConn

	raw    syscall.RawConn // of tcp, once it was parked; guarded by the parking's mutex
	closed bool            // as raw
}

// listeners are the sockets that config asks for. They belong to who holds the Proxy's mutex.
type listeners struct {
	wanted map[socket][]claim // the first one has the socket, if it is open
	open   map[socket]*listener
	failed map[socket]error // why a wanted socket is not open
	dirty  map[socket]bool  // to be looked at by the next settle

	fresh    []*listener // open, but not accepting yet
	touched  []socket    // opened, closed or given to another claim since the last commit
	tcp, udp int         // open ones
}

func newListeners() listeners {
	return listeners{
		wanted: map[socket][]claim{}, open: map[socket]*listener{}, failed: map[socket]error{}, dirty: map[socket]bool{},
	}
}

func (l *listeners) want(s socket, c claim) {
	if !slices.Contains(l.wanted[s], c) {
		l.wanted[s] = append(l.wanted[s], c)
	}
	// A claim that got nothing so far is tried again.
	if l.wanted[s][0] != c || l.open[s] == nil || !c.has(l.open[s]) {
		l.dirty[s] = true
	}
}

// has says that the listener stands for c.
func (c claim) has(o *listener) bool {
	b := o.binding.Load()
	return b.Service == c.service && b.Port == c.port
}

func (l *listeners) unwant(s socket, c claim) {
	l.wanted[s] = slices.DeleteFunc(l.wanted[s], func(o claim) bool { return o == c })
	l.dirty[s] = true
}

// busy is a claim that has no socket, and why.
type busy struct {
	claim
	err error
}

var errClaimed = errors.New("another service has the port")

// settle opens and closes the dirty sockets until they are as wanted, and returns the claims that got none.
func (p *Proxy) settle(ctx context.Context) []busy {
	l := &p.listeners
	var refused []busy
	for _, s := range slices.SortedFunc(maps.Keys(l.dirty), compareSockets) {
		claims := l.wanted[s]
		if len(claims) == 0 {
			delete(l.wanted, s)
			p.close(s)
			continue
		}
		if err := p.open(ctx, s, claims[0]); err != nil {
			refused = append(refused, busy{claims[0], err})
		}
		for _, c := range claims[1:] {
			refused = append(refused, busy{c, errClaimed})
		}
	}
	clear(l.dirty)
	return refused
}

func compareSockets(a, b socket) int {
	return cmp.Or(cmp.Compare(a.network, b.network), cmp.Compare(a.address, b.address))
}

// open makes the socket stand for c. The socket is opened if it isn't.
func (p *Proxy) open(ctx context.Context, s socket, c claim) error {
	binding := &route.Binding{Service: c.service, Port: c.port, UDP: c.udp}
	if o := p.listeners.open[s]; o != nil {
		if !c.has(o) {
			o.binding.Swap(binding).Closed.Store(true)
			p.listeners.touched = append(p.listeners.touched, s)
		}
		return nil
	}
	if p.draining {
		return errDraining
	}
	o := &listener{socket: s}
	var err error
	if s.network == "udp" {
		o.udp, err = p.config.Sockets.ListenPacket(ctx, s.address)
	} else {
		o.tcp, err = p.config.Sockets.Listen(ctx, s.address)
	}
	if err != nil {
		p.listeners.failed[s] = err
		return err //nolint:wrapcheck // becomes the text of a Refusal as it is
	}
	delete(p.listeners.failed, s)
	o.binding.Store(binding)
	p.listeners.fresh = append(p.listeners.fresh, o)
	p.listeners.put(s, o)
	return nil
}

// close closes a socket and gives it up. Connections that were accepted from it go on.
func (p *Proxy) close(s socket) {
	delete(p.listeners.failed, s)
	o := p.listeners.open[s]
	if o == nil {
		return
	}
	p.listeners.put(s, nil)
	o.binding.Load().Closed.Store(true)
	p.shut(o)
	p.config.Sockets.Release(s.network, s.address)
}

// start lets the open listeners that are new accept. The config that they need is in use by now.
func (p *Proxy) start() {
	for _, o := range p.listeners.fresh {
		switch {
		case o.udp != nil:
			p.accepting.Go(func() { p.udp.Serve(o.udp, &o.binding) })
		case !p.park(o):
			p.wake(o)
		}
	}
	p.listeners.fresh = nil
}

// park lets a listener wait without a goroutine of its own until it is called. It is false if that can't be done.
func (p *Proxy) park(o *listener) bool {
	opened, err := p.parking.open()
	if err != nil {
		p.config.Log.Warn("each listener has a goroutine", "err", err)
		return false
	}
	if opened {
		p.accepting.Go(func() { p.parking.run(p.wake) })
	}
	return p.parking.park(o)
}

func (p *Proxy) wake(o *listener) { p.accepting.Go(func() { p.accept(o) }) }

// accept hands connections to the protocol of their port until the listener is parked or closed.
func (p *Proxy) accept(o *listener) {
	const least, most = 5 * time.Millisecond, time.Second
	wait, called := least, false
	o.patience(p.config.ParkAfter)
	for {
		c, err := o.tcp.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			switch {
			case called:
				o.patience(p.config.ParkAfter)
			case p.parking.park(o):
				return
			default:
				o.patience(0)
			}
			called = false
			continue
		}
		called = true
		if err != nil {
			// Out of file descriptors, most likely: those who have connections may end some.
			p.meter.AcceptFailed()
			p.config.Log.Warn("accept failed", "address", o.socket.address, "err", err)
			time.Sleep(wait)
			wait = min(2*wait, most)
			continue
		}
		wait = least
		p.share.TurnToAccept()
		p.take(c.(*net.TCPConn), o.binding.Load())
	}
}

// patience makes Accept come back after a while; 0 = only with a connection.
func (o *listener) patience(d time.Duration) {
	var end time.Time
	if d > 0 {
		end = time.Now().Add(d)
	}
	if l, ok := o.tcp.(*net.TCPListener); ok {
		_ = l.SetDeadline(end) // fails on one that is closed, which Accept says better
	}
}

// take serves a connection, if its client may have another one.
func (p *Proxy) take(conn *net.TCPConn, b *route.Binding) {
	p.taken.Add(1)
	account := p.accountOf(conn)
	admitted, isHTTP := account.Connect(time.Now()), b.Service == "" || p.speaksHTTP(b)
	switch {
	case !admitted:
		p.shed(conn, b, isHTTP)
	case isHTTP:
		p.http1.Serve(conn, b, account)
	default:
		p.accepting.Go(func() { p.tcp.Serve(conn, b, account.Disconnect) })
	}
}

// accountOf is the account that a client's connection counts for.
func (p *Proxy) accountOf(conn *net.TCPConn) *share.Account {
	if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		if caller := p.now.Load().table.Callers[a.AddrPort().Addr().Unmap()]; caller != nil {
			return caller.Share
		}
	}
	return p.strangers
}

// shed ends a connection that there is no room for.
func (p *Proxy) shed(conn *net.TCPConn, b *route.Binding, isHTTP bool) {
	namespace, service := "", ""
	if s := p.now.Load().table.Services[b.Service]; s != nil {
		namespace, service = s.Namespace, s.Short
	}
	if isHTTP {
		p.meter.Refused("http", namespace, service, refusal.OverShare)
		p.http1.Shed(conn)
		return
	}
	p.meter.Refused("tcp", namespace, service, refusal.OverShare)
	tcp.Reset(conn)
}

func (p *Proxy) speaksHTTP(b *route.Binding) bool {
	port := p.now.Load().table.Port(b)
	return port != nil && port.Protocol == configv1.Protocol_PROTOCOL_HTTP
}

// stopAccepting gives up all listeners for good. UDP's stay open, as flows need them for their answers, but begin no
// new flows.
func (p *Proxy) stopAccepting() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.draining = true
	p.leaving.Store(true)
	for s, o := range p.listeners.open {
		if o.udp == nil {
			p.close(s)
		}
	}
	p.udp.StopAccepting()
	p.newChange().commit()
}

// closeAll ends this process's use of all sockets, without giving them up: another may take them over.
func (p *Proxy) closeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.draining = true
	for s, o := range p.listeners.open {
		p.listeners.put(s, nil)
		p.shut(o)
	}
	p.newChange().commit()
	p.parking.close()
}

// shut ends this process's use of a socket.
func (p *Proxy) shut(o *listener) {
	if o.udp != nil {
		o.udp.Close()
		return
	}
	p.parking.remove(o)
	o.tcp.Close()
}

// put notes that a socket is open, or closed if o is nil.
func (l *listeners) put(s socket, o *listener) {
	n := 1
	if o == nil {
		n = -1
		delete(l.open, s)
	} else {
		l.open[s] = o
	}
	if s.network == "udp" {
		l.udp += n
	} else {
		l.tcp += n
	}
	l.touched = append(l.touched, s)
}
