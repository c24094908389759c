package tunnel

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/identity"
)

// Reason says why a destination was refused.
type Reason string

// The reasons. A destination's own, such as a failed connect, come beside them.
const (
	// UnknownPeer is for who calls from where no proxy of the node is that his SVID names.
	UnknownPeer Reason = "unknown-peer"
	// Stale is for a link whose certificates ended since, or whose root isn't trusted any more: a new link may do.
	Stale Reason = "stale"
	// Draining is for a proxy that is about to end: another one of its node may do.
	Draining Reason = "draining"
	// NotHere is for an address that no pod of this node has, as far as is known here.
	NotHere Reason = "not-here"
	// NotExposed is for another pod than the one that was meant, and for a port that no Service exposes, or not in the way
	// that was said.
	NotExposed Reason = "not-exposed"
	// ConnectFailed is for a pod that doesn't take the connection.
	ConnectFailed Reason = "connect-failed"
)

// Verdict says that the reason is none of the tunnel's: the destination's proxy has judged the caller.
func (r Reason) Verdict() bool {
	switch r {
	case UnknownPeer, Stale, Draining, NotHere, NotExposed, ConnectFailed:
		return false
	}
	return true
}

// Stream is a connection that a caller asks for. The handler calls Accept or Refuse, once.
type Stream struct {
	*Conn
	// Caller is whose SVID was shown; zero if it was the proxies' own: a caller without identity.
	Caller identity.ID
	// Node is the caller's.
	Node string

	answered bool
	refused  Reason
	valid    func() bool
}

// Valid says that the caller's proof still holds, which it may not do for as long as the connection lasts.
func (s *Stream) Valid() bool { return s.valid() }

// Accept says that the destination takes the connection.
func (s *Stream) Accept() error { return s.answer(kindAccepted, nil) }

// Refuse says that it doesn't, and why.
func (s *Stream) Refuse(r Reason) error {
	s.refused = r
	return s.answer(kindRefused, []byte(r))
}

func (s *Stream) answer(k kind, content []byte) error {
	s.answered = true
	return s.link.write(k, content)
}

// ServerConfig is what a Server needs. Source, Self, Peer, Check and Handler are required.
type ServerConfig struct {
	Source identity.Source
	// Self is the proxies' own identity; zero while the trust domain isn't known.
	Self func() identity.ID
	// Peer says which node a proxy at the address is of; ok is false if there is no proxy at the address. A link is only
	// used while that agrees with its SVID, so that an SVID is of no use anywhere else.
	Peer func(netip.Addr) (node string, ok bool)
	// AnyNode takes SVIDs that say nothing of a node, as SPIRE's: the address alone says it then.
	AnyNode bool
	// Check says why a destination isn't one of this node's; "" if it is.
	Check func(Destination) Reason
	// Handler serves a connection to its end. Each call has a goroutine of its own.
	Handler func(*Stream)
	Log     *slog.Logger

	HandshakeTimeout time.Duration // default 5 s
	IdentityWait     time.Duration // how long a peer waits for this proxy's own SVID; default 2 s, less than its patience
	IdleTimeout      time.Duration // of a link that isn't used; more than a Client's. Default 3 min
	MaxHandshakes    int           // under way at once; default 256
}

// Server takes tunnels.
type Server struct {
	config     ServerConfig
	handshakes chan struct{}

	mu       sync.Mutex
	links    map[net.Conn]bool // true while in use
	draining bool
	conns    sync.WaitGroup

	stats serverStats
}

// NewServer returns a Server.
func NewServer(c ServerConfig) *Server {
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	c.HandshakeTimeout, c.IdleTimeout = cmp.Or(c.HandshakeTimeout, 5*time.Second), cmp.Or(c.IdleTimeout, 3*time.Minute)
	c.MaxHandshakes, c.IdentityWait = cmp.Or(c.MaxHandshakes, 256), cmp.Or(c.IdentityWait, 2*time.Second)
	return &Server{
		config: c, handshakes: make(chan struct{}, c.MaxHandshakes), links: map[net.Conn]bool{},
		stats: serverStats{failed: map[string]uint64{}, refused: map[Reason]uint64{}},
	}
}

// Serve takes tunnels from l until it is closed. Those that were taken go on; see Drain and Cut.
func (s *Server) Serve(l net.Listener) error {
	const least, most = 5 * time.Millisecond, time.Second
	for wait := least; ; {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			s.config.Log.Warn("accept failed", "address", l.Addr().String(), "err", err)
			time.Sleep(wait)
			wait = min(2*wait, most)
			continue
		}
		wait = least
		if !s.add(c) {
			c.Close()
			continue
		}
		go s.serve(c)
	}
}

func (s *Server) add(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.links[c] = true // until it waits for its first use
	s.conns.Add(1)
	return true
}

// serve carries one link to its end.
func (s *Server) serve(raw net.Conn) {
	defer func() {
		if p := recover(); p != nil {
			s.config.Log.Error("panic in a tunnel", "panic", p, "stack", string(debug.Stack()))
		}
		raw.Close()
		s.mu.Lock()
		delete(s.links, raw)
		s.mu.Unlock()
		s.conns.Done()
	}()
	keepAlive(raw)
	l, certs, err := s.handshake(raw)
	if err != nil {
		s.stats.fail(err)
		s.config.Log.Debug("tunnel refused", "from", raw.RemoteAddr().String(), "err", err)
		linger(raw)
		return
	}
	s.stats.links.Add(1)
	defer s.stats.links.Add(-1)
	defer l.close()
	p := &proof{}
	p.now.Store(certs)
	if a, err := netip.ParseAddrPort(raw.RemoteAddr().String()); err == nil {
		p.from = a.Addr().Unmap()
	}
	for s.next(raw, l, p) {
	}
}

// linger lets a peer read why its handshake failed. It has sent its first request by then, as its side of the handshake ends
// before this one: to close with that unread would be a reset, which overtakes the alert, and the peer would take a no to
// its certificate for a proxy that is gone.
func linger(c net.Conn) {
	half, ok := c.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || c.SetReadDeadline(time.Now().Add(lingering)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, c, maxPreamble+maxRecord) // its end is all that matters
}

// handshake returns the link and what the peer showed.
func (s *Server) handshake(raw net.Conn) (*link, *shown, error) {
	ctx, cancel := context.WithTimeout(context.Background(), s.config.HandshakeTimeout)
	defer cancel()
	select {
	case s.handshakes <- struct{}{}:
		defer func() { <-s.handshakes }()
	case <-ctx.Done():
		return nil, nil, errors.New("too many handshakes")
	}
	self := s.config.Self()
	if self.IsZero() {
		return nil, nil, errNoBundle
	}
	// A peer that is told at once that there is none can do something about it.
	wait, stop := context.WithTimeout(ctx, s.config.IdentityWait)
	defer stop()
	svid, err := s.config.Source.SVID(wait, self)
	if err != nil {
		return nil, nil, err
	}
	var p *shown
	conn := tls.Server(raw, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{protocol}, SessionTicketsDisabled: true,
		Certificates: []tls.Certificate{*svid.Certificate}, ClientAuth: tls.RequireAnyClientCert,
		VerifyConnection: func(cs tls.ConnectionState) (err error) {
			if cs.NegotiatedProtocol != protocol {
				return errors.New("no tunnel was asked for")
			}
			p, err = s.look(cs)
			return err
		},
	})
	s.stats.handshakes.Add(1)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, nil, err
	}
	expires := svid.NotAfter
	if p.peer.NotAfter.Before(expires) {
		expires = p.peer.NotAfter
	}
	return newLink(conn, expires), p, nil
}

// shown is who a peer proved to be, and by which bundle.
type shown struct {
	state tls.ConnectionState
	peer  identity.Peer
	by    string
}

func (s *Server) look(cs tls.ConnectionState) (*shown, error) {
	b := s.config.Source.Bundle()
	if b == nil {
		return nil, errNoBundle
	}
	peer, err := identity.Verify(cs.PeerCertificates, b, time.Now())
	if err != nil {
		return nil, err
	}
	return &shown{cs, peer, b.Sum()}, nil
}

// next serves the next connection on the link. It returns false if there is to be no further one.
func (s *Server) next(raw net.Conn, l *link, p *proof) bool {
	if !s.use(raw, false) || l.tls.SetReadDeadline(time.Now().Add(s.config.IdleTimeout)) != nil {
		return false
	}
	k, content, err := l.message()
	if err != nil || k != kindOpen {
		return false
	}
	if !s.use(raw, true) {
		return s.refuse(l, Draining)
	}
	d, err := decode(content)
	if err != nil || l.tls.SetReadDeadline(time.Time{}) != nil {
		return false
	}
	node, reason := s.judge(p)
	if reason == "" {
		reason = s.config.Check(d)
	}
	if reason != "" {
		if reason == UnknownPeer {
			peer := p.now.Load().peer
			s.config.Log.Warn("tunnel refused: not the proxy of the node that the SVID names",
				"from", p.from.String(), "id", peer.ID.String(), "node", peer.Node, "proxy_of", node)
		}
		return s.refuse(l, reason)
	}
	return s.handle(l, p, node, d)
}

// use marks the link as in use, or not. It returns false if the server drains.
func (s *Server) use(raw net.Conn, is bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.links[raw] = is
	return !s.draining
}

// proof is who the peer of a link proved to be, and where it calls from. It is used by any goroutine.
type proof struct {
	now  atomic.Pointer[shown] // never nil
	from netip.Addr
}

// judge looks again at who the peer is: hours may have passed since the handshake.
func (s *Server) judge(p *proof) (node string, r Reason) {
	is := p.now.Load()
	if !time.Now().Before(is.peer.NotAfter) {
		return "", Stale
	}
	if b := s.config.Source.Bundle(); b == nil {
		return "", Stale
	} else if b.Sum() != is.by {
		again, err := s.look(is.state)
		if err != nil {
			return "", Stale
		}
		p.now.Store(again)
	}
	node, ok := s.config.Peer(p.from)
	if !ok || node != is.peer.Node && (is.peer.Node != "" || !s.config.AnyNode) {
		return node, UnknownPeer
	}
	return node, ""
}

func (s *Server) refuse(l *link, r Reason) bool {
	s.stats.refuse(r)
	return l.write(kindRefused, []byte(r)) == nil && r != Stale && r != Draining && r != UnknownPeer
}

// handle lets the handler serve a connection.
func (s *Server) handle(l *link, p *proof, node string, d Destination) bool {
	s.stats.streams.Add(1)
	released := make(chan bool, 1)
	st := &Stream{Conn: newConn(l, d, func(reusable bool) { released <- reusable }), Node: node}
	st.valid = func() bool {
		_, reason := s.judge(p)
		return reason == ""
	}
	if id := p.now.Load().peer.ID; id != s.config.Self() {
		st.Caller = id
	}
	defer func() {
		if p := recover(); p != nil {
			st.Reset()
			panic(p)
		}
	}()
	s.config.Handler(st)
	if !st.answered && st.Refuse(ConnectFailed) != nil {
		return false
	}
	if st.refused != "" {
		s.stats.refuse(st.refused)
		st.abandon() // no connection came of it
		return true
	}
	// Closing twice does nothing.
	_ = st.Close()
	return <-released
}

// Drain closes links that aren't used, refuses new connections on the others and waits until none is used, or cuts them
// when ctx ends. The listener is the caller's to close.
func (s *Server) Drain(ctx context.Context) error {
	s.mu.Lock()
	s.draining = true
	for c, used := range s.links {
		if !used {
			c.Close()
		}
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		s.conns.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		s.Cut()
		<-done
		return fmt.Errorf("drain tunnels: %w", ctx.Err())
	}
}

// Cut ends all links.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	for c := range s.links {
		c.Close()
	}
}
