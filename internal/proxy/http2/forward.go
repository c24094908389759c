package http2

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"sync"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy/exchange"
	"github.com/tulle-mesh/tulle/internal/proxy/policy"
	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// forward sends the request to an endpoint and passes the answer on.
func (c *carrier) forward(ctx context.Context) {
	f := c.newForwarding(ctx)
	defer f.early.stop()
	if err := c.Forward(f); err != nil {
		c.fail(ctx, err)
	}
}

// fail answers a request that no endpoint has answered.
func (c *carrier) fail(ctx context.Context, err error) {
	if c.Endpoint != nil {
		c.Mesh.Log.DebugContext(ctx, "request failed", "service", c.Port.Service.Name, "endpoint", c.Endpoint.Address(), "err", err)
	}
	var denied *exchange.Denied
	switch {
	case errors.Is(err, exchange.ErrNoEndpoint):
		c.refuse(refusal.NoEndpoint)
	case errors.As(err, &denied):
		c.refuse(denied.Reason)
	case errors.Is(context.Cause(ctx), errOverShare):
		c.body.discard()
		c.refuse(refusal.OverShare)
	case errors.Is(context.Cause(ctx), errTimeout):
		c.refuse(refusal.Timeout)
	case ctx.Err() != nil:
		panic(http.ErrAbortHandler) // the client is gone
	case c.body.failed.Load() != nil:
		c.close()
		c.refuse(refusal.BadRequest)
	case errors.As(err, new(*upstream.DialError)):
		c.refuse(policy.Unreached(err))
	case c.grpcLate():
		c.refuse(refusal.Timeout)
	default:
		c.refuse(refusal.UpstreamFailed)
	}
}

// forwarding is what the attempts at one request share. It is an exchange.Carrier.
type forwarding struct {
	*carrier
	out      *http.Request
	protocol upstream.HTTPProtocol
	early    *interim
}

func (c *carrier) newForwarding(ctx context.Context) *forwarding {
	f := &forwarding{carrier: c, early: &interim{c: c}, protocol: c.protocol()}
	trace := &httptrace.ClientTrace{Got1xxResponse: f.early.got}
	out := &http.Request{
		Method: c.r.Method, Host: c.r.Host, Header: c.requestHeader(), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	if !c.body.none() {
		out.ContentLength, out.Trailer = c.r.ContentLength, c.body.trailer
		if out.ContentLength < 0 {
			out.TransferEncoding = []string{"chunked"} // whatever the method; net/http would guess
		}
	}
	f.out = out.WithContext(httptrace.WithClientTrace(ctx, trace))
	return f
}

// protocol is how the backend is spoken to.
func (c *carrier) protocol() upstream.HTTPProtocol {
	switch c.Backend.Scheme {
	case configv1.Scheme_SCHEME_HTTPS:
		return upstream.TLS
	case configv1.Scheme_SCHEME_H2C:
		return upstream.H2C
	case configv1.Scheme_SCHEME_UNSPECIFIED, configv1.Scheme_SCHEME_HTTP:
		if isGRPC(c.r) {
			return upstream.H2C // whatever the service says, gRPC needs it
		}
	}
	return upstream.HTTP1
}

// Context implements exchange.Carrier.
func (f *forwarding) Context() context.Context { return f.out.Context() }

// Bodyless implements exchange.Carrier.
func (f *forwarding) Bodyless() bool { return f.body.none() }

// Stopped implements exchange.Carrier.
func (f *forwarding) Stopped() bool { return f.out.Context().Err() != nil }

// Attempt implements exchange.Carrier.
func (f *forwarding) Attempt(w *upstream.Way) error {
	out := f.out.WithContext(f.out.Context())
	if who := f.ClientCert(); who != "" {
		out.Header = maps.Clone(out.Header) // an attempt that failed may still be reading it
		out.Header[policy.ClientCert] = []string{who}
	}
	protocol := w.Protocol(f.protocol)
	out.URL = f.url(f.Endpoint.Address(), protocol)
	reader := &bodyReader{requestBody: f.body}
	if !f.body.none() {
		if w.Tunnelled() {
			f.body.keep()
		}
		out.Body = reader
	}
	resp, err := w.HTTP(protocol, f.ServerName()).RoundTrip(out)
	if err != nil {
		reader.finish()
		return fmt.Errorf("send request: %w", err)
	}
	f.Client.Share.TurnToGoOn()
	if f.refusedBy(resp) == refusal.ConnectFailed && (f.body.none() || f.body.replayable()) {
		reader.leave()
		go resp.Body.Close() // which may wait for a Read
		return f.Unreached() //nolint:wrapcheck // a DialError says it all
	}
	reader.finish()
	defer resp.Body.Close()
	f.early.stop()
	f.deliver(resp)
	return nil
}

// url makes the URL that net/http turns into the request target that the client sent.
func (f *forwarding) url(address string, p upstream.HTTPProtocol) *url.URL {
	u := &url.URL{Scheme: "http", Host: address}
	if p == upstream.TLS {
		u.Scheme = "https"
	}
	if target := f.Sent(); !strings.HasPrefix(target, "//") {
		u.Opaque = target // goes out byte for byte
		return u
	}
	in := f.r.URL
	u.Path, u.RawPath, u.RawQuery, u.ForceQuery = in.Path, f.Path, in.RawQuery, in.ForceQuery
	return u
}

// interim passes 1xx answers on. Transports call got in goroutines of their own until stop returns.
type interim struct {
	mu      sync.Mutex
	c       *carrier
	stopped bool
}

func (i *interim) got(code int, header textproto.MIMEHeader) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	// net/http says 100 by itself, when the body is first read, and HTTP/1.0 knows no 1xx.
	if i.stopped || code == http.StatusContinue || !i.c.r.ProtoAtLeast(1, 1) {
		return nil
	}
	h := i.c.w.Header()
	saved := maps.Clone(h)
	clear(h)
	maps.Copy(h, http.Header(header))
	removeHopByHop(h)
	i.c.w.WriteHeader(code)
	clear(h)
	maps.Copy(h, saved)
	return nil
}

func (i *interim) stop() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.stopped = true
}
