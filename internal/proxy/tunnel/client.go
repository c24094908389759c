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
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/identity"
)

// ClientConfig is what a Client needs. Source, Self and Proxies are required.
type ClientConfig struct {
	Source identity.Source
	// Self is the proxies' own identity: whom tunnels lead to, and who calls where there is no caller. It is zero while the
	// trust domain isn't known.
	Self func() identity.ID
	// Proxies returns where the proxies of a node take tunnels, the best first; none if the node has no proxy that is
	// ready.
	Proxies func(node string) []netip.AddrPort
	// AnyNode takes SVIDs that say nothing of a node, as SPIRE's.
	AnyNode bool
	Log     *slog.Logger

	Local            netip.Addr    // to call from; default: what the kernel takes
	IdentityWait     time.Duration // how long a call waits for a new pod's identity; default 5 s
	ConnectTimeout   time.Duration // default 3 s
	HandshakeTimeout time.Duration // after the connect; default 5 s, as much as the other side has
	AnswerTimeout    time.Duration // of who is asked for a destination, which has to connect to it; default 10 s
	IdleTimeout      time.Duration // of a connection that waits for its next use; default 90 s
	MaxIdle          int           // of these, for one caller and node; default 256
}

// Client dials through tunnels.
type Client struct {
	config ClientConfig

	mu      sync.Mutex
	idle    map[key][]*idle // the one used last at the end
	warming map[key]bool
	queues  map[key]*line
	closed  bool

	stats struct{ handshakes, failed, reused, streams atomic.Uint64 }
}

// key is what connections are pooled by.
type key struct {
	caller identity.ID
	node   string
}

type idle struct {
	link  *link
	addr  netip.AddrPort
	timer *time.Timer
}

// ErrNoProxy says that the destination's node has no proxy that could take a tunnel.
var ErrNoProxy = errors.New("no proxy at the destination")

// ErrUnreachable says that no proxy of the destination's node takes a connection, for whatever reason.
var ErrUnreachable = errors.New("out of reach")

// ErrNoIdentity says that the caller has no valid SVID.
var ErrNoIdentity = errors.New("the caller has no identity")

// RefusedError is the destination's proxy's no.
type RefusedError struct{ Reason Reason }

func (e *RefusedError) Error() string {
	return "refused by the destination's proxy: " + string(e.Reason)
}

// NewClient returns a Client.
func NewClient(c ClientConfig) *Client {
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	c.IdentityWait, c.ConnectTimeout = cmp.Or(c.IdentityWait, 5*time.Second), cmp.Or(c.ConnectTimeout, 3*time.Second)
	c.HandshakeTimeout, c.AnswerTimeout = cmp.Or(c.HandshakeTimeout, 5*time.Second), cmp.Or(c.AnswerTimeout, 10*time.Second)
	c.IdleTimeout, c.MaxIdle = cmp.Or(c.IdleTimeout, 90*time.Second), cmp.Or(c.MaxIdle, 256)
	return &Client{config: c, idle: map[key][]*idle{}, warming: map[key]bool{}, queues: map[key]*line{}}
}

// startup is how often a destination that doesn't know this proxy yet, which may be new, is asked again.
var startup = []time.Duration{50 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond}

// Dial connects to a destination on a node as caller; the zero caller is nobody, which only what is not protected
// serves. Until it returns, not a byte of the connection was sent: another endpoint may be tried.
//
// Its errors are ErrNoProxy, ErrUnreachable, ErrNoIdentity and *RefusedError, wrapped, or what is wrong with a certificate.
func (c *Client) Dial(ctx context.Context, caller identity.ID, node string, d Destination) (*Conn, error) {
	if caller.IsZero() {
		if caller = c.config.Self(); caller.IsZero() {
			return nil, errNoBundle
		}
	}
	preamble, err := encode(d)
	if err != nil {
		return nil, err
	}
	for attempt := 0; ; attempt++ {
		conn, err := c.dial(ctx, key{caller, node}, preamble, d)
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Reason != UnknownPeer || attempt == len(startup) {
			return conn, err
		}
		select {
		case <-time.After(startup[attempt]):
		case <-ctx.Done():
			return nil, err
		}
	}
}

func (c *Client) dial(ctx context.Context, k key, preamble []byte, d Destination) (*Conn, error) {
	addrs := c.config.Proxies(k.node)
	if len(addrs) == 0 {
		return nil, fmt.Errorf("%w: node %s", ErrNoProxy, k.node)
	}
	i, made := c.takeOrMake(ctx, k, addrs)
	for ; i != nil; i, made = c.takeOrMake(ctx, k, addrs) {
		conn, err := c.open(ctx, i.link, i.addr, k, preamble, d)
		if err == nil {
			c.stats.reused.Add(1)
			c.warm(k)
			return conn, nil
		}
		var refused *RefusedError
		if errors.As(err, &refused) && refused.Reason != Stale && refused.Reason != Draining {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if errors.Is(err, context.DeadlineExceeded) {
			return nil, fmt.Errorf("%w: %w", ErrUnreachable, err) // nor will it answer on others
		}
		// The link died while it waited, or it is too old: the next one may not be.
	}
	defer made()
	var failed error
	for _, addr := range addrs {
		l, err := c.connect(ctx, k, addr)
		if err == nil {
			made() // the destination may take its time
			var conn *Conn
			if conn, err = c.open(ctx, l, addr, k, preamble, d); err == nil {
				c.warm(k)
				return conn, nil
			}
			var refused *RefusedError
			if errors.As(err, &refused) && refused.Reason != Draining {
				return nil, err
			}
			// To the caller the handshake ends before the other side has looked at the certificate. If that one gave up
			// without a word, the link ends here.
			if refused == nil && silent(err) {
				err = fmt.Errorf("%w: %w", ErrUnreachable, err)
			}
		}
		failed = errors.Join(failed, err)
		if ctx.Err() != nil || errors.Is(err, ErrNoIdentity) {
			break
		}
	}
	return nil, failed
}

// connect makes a new link.
func (c *Client) connect(ctx context.Context, k key, addr netip.AddrPort) (*link, error) {
	wait, cancel := context.WithTimeout(ctx, c.config.IdentityWait)
	defer cancel()
	svid, err := c.config.Source.SVID(wait, k.caller)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoIdentity, err)
	}
	c.stats.handshakes.Add(1)
	l, err := c.handshake(ctx, svid, k.node, addr)
	if err != nil {
		c.stats.failed.Add(1)
		return nil, fmt.Errorf("tunnel to node %s at %s: %w", k.node, addr, err)
	}
	return l, nil
}

func (c *Client) handshake(ctx context.Context, svid *identity.SVID, node string, addr netip.AddrPort) (*link, error) {
	d := net.Dialer{Timeout: c.config.ConnectTimeout}
	if c.config.Local.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.config.Local, 0))
	}
	raw, err := d.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	keepAlive(raw)
	var peer identity.Peer
	conn := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{protocol}, SessionTicketsDisabled: true,
		InsecureSkipVerify:   true, //nolint:gosec // SVIDs carry no host names: VerifyConnection is what verifies
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return svid.Certificate, nil },
		VerifyConnection: func(s tls.ConnectionState) (err error) {
			peer, err = c.verify(s, node)
			return err
		},
	})
	ctx, cancel := context.WithTimeout(ctx, c.config.HandshakeTimeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		if silent(err) {
			err = fmt.Errorf("%w: %w", ErrUnreachable, err)
		}
		return nil, err
	}
	expires := svid.NotAfter
	if peer.NotAfter.Before(expires) {
		expires = peer.NotAfter
	}
	return newLink(conn, expires), nil
}

// silent says that a handshake failed without a word from the other proxy: it is gone, or has no SVID to show.
func silent(err error) bool {
	for _, end := range []error{io.EOF, syscall.ECONNRESET, syscall.EPIPE, context.DeadlineExceeded} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}

// verify takes a proxy of the node for who it says, and nobody else.
func (c *Client) verify(s tls.ConnectionState, node string) (identity.Peer, error) {
	b := c.config.Source.Bundle()
	if b == nil {
		return identity.Peer{}, errNoBundle
	}
	peer, err := identity.Verify(s.PeerCertificates, b, time.Now())
	switch {
	case err != nil:
		return identity.Peer{}, err
	case peer.ID != c.config.Self():
		return identity.Peer{}, fmt.Errorf("%s is no proxy", peer.ID)
	case peer.Node != node && (peer.Node != "" || !c.config.AnyNode):
		return identity.Peer{}, fmt.Errorf("it is the proxy of node %q", peer.Node)
	case s.NegotiatedProtocol != protocol:
		return identity.Peer{}, errors.New("it speaks another protocol")
	}
	return peer, nil
}

var errNoBundle = errors.New("no trust bundle yet")

// open asks for a destination on a link that is free.
func (c *Client) open(ctx context.Context, l *link, addr netip.AddrPort, k key, preamble []byte, d Destination) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.AnswerTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.tls.SetDeadline(time.Now().Add(-time.Second)) })
	answer, content, err := kind(0), []byte(nil), l.write(kindOpen, preamble)
	if err == nil {
		answer, content, err = l.message()
	}
	if !stop() && err == nil {
		err = ctx.Err() // the deadline may be on the link now or later
	}
	switch {
	case err != nil:
		l.close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("tunnel to node %s at %s: %w", k.node, addr, err)
	case answer == kindRefused && len(content) > 0:
		if reason := Reason(content); reason == Stale || reason == Draining || reason == UnknownPeer {
			l.close()
		} else {
			c.put(k, addr, l)
		}
		return nil, &RefusedError{Reason(content)}
	case answer != kindAccepted:
		l.close()
		return nil, errProtocol
	}
	c.stats.streams.Add(1)
	return newConn(l, d, func(reusable bool) {
		if reusable {
			c.put(k, addr, l)
		}
	}), nil
}
