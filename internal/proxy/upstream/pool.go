package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"
)

// HTTPProtocol is how HTTP is spoken to an endpoint.
type HTTPProtocol int

// The protocols.
const (
	HTTP1 HTTPProtocol = iota // HTTP/1.1 in the clear
	H2C                       // HTTP/2 in the clear, with prior knowledge
	TLS                       // HTTP/2 or HTTP/1.1 over TLS, as the endpoint prefers
	TLS1                      // HTTP/1.1 over TLS, for what HTTP/2 has no words for (upgrades)
)

// StreamWindow is what an HTTP/2 stream may send ahead of a client that reads slowly.
const StreamWindow = 256 << 10

const (
	maxResponseHead = 256 << 10
	// A backend that was asked for permission to send a body gets this long to answer, as curl does.
	continueTimeout = time.Second
	// An HTTP/2 connection that is silent for pingAfter is asked whether it still lives.
	pingAfter   = 15 * time.Second
	pingTimeout = 10 * time.Second
)

// pool is a transport and when it takes no more requests.
type pool struct {
	*http.Transport
	until atomic.Int64 // since the set's start; 0 = never
}

// ends notes when a connection of the pool can't be used any more: then all of them are replaced.
func (p *pool) ends(at time.Duration) {
	for {
		old := p.until.Load()
		if old != 0 && old <= int64(at) || p.until.CompareAndSwap(old, int64(at)) {
			return
		}
	}
}

func newPool(w *Way, key poolKey) *pool {
	e := w.endpoint
	p := &pool{}
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := w.Dial(ctx)
			if at := e.usableUntil(c); at != 0 {
				p.ends(at)
			}
			return c, err
		},
		DisableCompression:     true,
		MaxIdleConnsPerHost:    e.config.MaxIdle,
		IdleConnTimeout:        e.config.IdleTimeout,
		ExpectContinueTimeout:  continueTimeout,
		MaxResponseHeaderBytes: maxResponseHead,
		Protocols:              new(http.Protocols),
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: pingAfter, PingTimeout: pingTimeout, MaxReceiveBufferPerStream: StreamWindow,
		},
	}
	t.Protocols.SetHTTP1(key.protocol != H2C)
	switch key.protocol {
	case H2C:
		t.Protocols.SetUnencryptedHTTP2(true)
	case TLS:
		t.Protocols.SetHTTP2(true)
		t.DialTLSContext = e.dialTLS(key.serverName, "h2", "http/1.1")
	}
	p.Transport = t
	return p
}

// usableUntil is until when requests may be sent on a connection, since the set's start; 0 = for ever.
func (e *Endpoint) usableUntil(c net.Conn) time.Duration {
	ages, ok := c.(interface{ Fresh() time.Time })
	if !ok {
		return 0
	}
	return max(e.config.since()+time.Until(ages.Fresh()), 1)
}

// dialTLS is for transports: they see a connection once it is ready for requests.
func (e *Endpoint) dialTLS(serverName string, protocols ...string) func(context.Context, string, string) (net.Conn, error) {
	config := e.tlsConfig(serverName, protocols...)
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, _, err := e.shakeHands(ctx, config)
		if err != nil {
			return nil, err
		}
		return c, nil
	}
}

// tlsConfig is for backends. Their certificate is their own affair: the proxy reaches pods by address and has no name
// to hold it against.
func (e *Endpoint) tlsConfig(serverName string, protocols ...string) *tls.Config {
	return &tls.Config{ServerName: serverName, NextProtos: protocols, InsecureSkipVerify: true} //nolint:gosec // see above
}

// shakeHands connects with TLS. The handshake counts as a part of the connect: until it is done nothing was sent, so
// another endpoint may be tried.
func (e *Endpoint) shakeHands(ctx context.Context, config *tls.Config) (c *tls.Conn, raw net.Conn, err error) {
	raw, err = e.dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	c = tls.Client(raw, config)
	limited, cancel := context.WithTimeout(ctx, e.config.ConnectTimeout)
	defer cancel()
	if err := c.HandshakeContext(limited); err != nil {
		raw.Close()
		if ctx.Err() == nil {
			e.Failed()
		}
		return nil, nil, &DialError{e.address, err}
	}
	return c, raw, nil
}

// ownFault says that a connect failed for want of something here, which says nothing about the endpoint.
func ownFault(err error) bool {
	for _, own := range []error{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, own) {
			return true
		}
	}
	return false
}
