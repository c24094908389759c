package nethttp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/access"
	"github.com/tulle-mesh/tulle/internal/proxy/policy"
	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// maxConnects bounds how many endpoints are tried to connect to for one request.
const maxConnects = 5

// forward sends the request to endpoints of the chosen backend until one answers, and passes the answer on. limit is
// the timer of the service's time limit, nil if it has none.
func (x *exchange) forward(ctx context.Context, limit *time.Timer) {
	f := x.newForwarding(ctx, limit)
	defer f.early.stop()
	var tried []*upstream.Endpoint
	repeats := 0
	for {
		e := x.backend.Endpoints.Pick(tried...)
		if e == nil && repeats > 0 {
			e = x.backend.Endpoints.Pick() // there is no other
		}
		if e == nil {
			x.refuse(refusal.NoEndpoint)
			return
		}
		err := f.attempt(e)
		if err == nil {
			return
		}
		tried = append(tried, e)
		failedConnect := errors.As(err, new(*upstream.DialError))
		switch {
		case ctx.Err() != nil:
			x.fail(ctx, err)
			return
		case failedConnect && len(tried) < maxConnects && x.backend.Endpoints.Pick(tried...) != nil:
		case repeats < x.port.RetryAttempts && (failedConnect || x.repeatable()):
			repeats++
		default:
			x.fail(ctx, err)
			return
		}
		x.server.config.Meter.Retried()
	}
}

// repeatable says that a request that may have reached an endpoint can be sent again: its method is idempotent
// (RFC 9110, 9.2.2) and none of its body is lost.
func (x *exchange) repeatable() bool {
	return x.body.none() && slices.Contains([]string{
		http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete,
	}, x.r.Method)
}

// fail answers a request that no endpoint has answered.
func (x *exchange) fail(ctx context.Context, err error) {
	log := x.server.config.Log
	log.DebugContext(ctx, "request failed", "service", x.port.Service.Name, "endpoint", x.endpoint.Address(), "err", err)
	switch {
	case errors.Is(context.Cause(ctx), errTimeout):
		x.refuse(refusal.Timeout)
	case ctx.Err() != nil:
		panic(http.ErrAbortHandler) // the client is gone
	case x.body.failed.Load() != nil:
		x.close()
		x.refuse(refusal.BadRequest)
	case errors.As(err, new(*upstream.DialError)):
		x.refuse(refusal.ConnectFailed)
	case x.grpcLate():
		x.refuse(refusal.Timeout)
	default:
		x.refuse(refusal.UpstreamFailed)
	}
}

// forwarding is what the attempts at one request share.
type forwarding struct {
	*exchange
	out      *http.Request
	upgrade  string // the protocol that the client asks to switch to
	protocol upstream.HTTPProtocol
	early    *interim
	limit    *time.Timer
	call     policy.Call // of the last attempt
}

func (x *exchange) newForwarding(ctx context.Context, limit *time.Timer) *forwarding {
	f := &forwarding{exchange: x, early: &interim{x: x}, limit: limit}
	if x.r.ProtoMajor == 1 {
		f.upgrade = upgrade(x.r.Header)
		// Without it net/http reads the body to its end before it sends an answer.
		_ = http.NewResponseController(x.w).EnableFullDuplex() // HTTP/1 always can
	}
	f.protocol = x.protocol(f.upgrade)
	trace := &httptrace.ClientTrace{Got1xxResponse: f.early.got}
	out := &http.Request{
		Method: x.r.Method, Host: x.r.Host, Header: x.requestHeader(f.upgrade), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	if !x.body.none() {
		out.ContentLength, out.Trailer = x.r.ContentLength, x.body.trailer
		if out.ContentLength < 0 {
			out.TransferEncoding = []string{"chunked"} // whatever the method; net/http would guess
		}
	}
	f.out = out.WithContext(httptrace.WithClientTrace(ctx, trace))
	return f
}

// protocol is how the backend is spoken to.
func (x *exchange) protocol(upgrade string) upstream.HTTPProtocol {
	switch x.backend.Scheme {
	case configv1.Scheme_SCHEME_HTTPS:
		if upgrade != "" {
			return upstream.TLS1
		}
		return upstream.TLS
	case configv1.Scheme_SCHEME_H2C:
		if upgrade == "" {
			return upstream.H2C
		}
	case configv1.Scheme_SCHEME_UNSPECIFIED, configv1.Scheme_SCHEME_HTTP:
		if isGRPC(x.r) {
			return upstream.H2C // whatever the service says, gRPC needs it
		}
	}
	return upstream.HTTP1
}

// attempt sends the request to one endpoint, if the caller may call it. Without an error, the request was refused or the
// answer was passed on, as far as it came.
func (f *forwarding) attempt(e *upstream.Endpoint) error {
	f.endpoint = e
	f.call = f.callOf(e)
	v := f.server.config.Gate.Judge(f.out.Context(), f.call)
	if !v.Allow {
		f.refuse(refusal.Reason(v.Reason))
		return nil
	}
	f.audit = v.Reason
	f.attempts++
	e.Begin()
	defer e.End()
	out := f.out.WithContext(f.out.Context())
	out.Header = f.headerFor(f.call)
	out.URL = f.url(e.Address(), v.Path)
	if !f.body.none() {
		out.Body = &bodyReader{requestBody: f.body}
	}
	resp, err := e.HTTP(f.protocol, f.serverName()).RoundTrip(out)
	if err != nil {
		if errors.As(err, new(*upstream.DialError)) {
			f.server.config.Meter.ConnectFailed()
		}
		return fmt.Errorf("send request: %w", err)
	}
	defer resp.Body.Close()
	f.early.stop()
	f.deliver(resp)
	return nil
}

// serverName is what TLS backends are asked for: the Service's name as pods know it.
func (f *forwarding) serverName() string {
	namespace, name, _ := strings.Cut(f.backend.Service, "/")
	return name + "." + namespace + ".svc"
}

// callOf is what access control judges.
func (x *exchange) callOf(e *upstream.Endpoint) policy.Call {
	return policy.Call{Peer: policy.Peer{Address: x.client.addr}, Port: x.port, Endpoint: e, Request: &access.Request{
		Method: x.r.Method, Path: x.path, Host: x.r.Host, EncodedSlash: x.port.EncodedSlash,
		Values: func(name string) []string { return x.r.Header[name] },
	}}
}

// headerFor is the header for one endpoint: it says who calls whom.
func (f *forwarding) headerFor(c policy.Call) http.Header {
	who := f.server.config.Gate.ClientCertOf(c)
	if who == "" {
		return f.out.Header
	}
	h := maps.Clone(f.out.Header) // an attempt that failed may still be reading it
	h[policy.ClientCert] = []string{who}
	return h
}

// url makes the URL that net/http turns into the request target that the client sent, or into the path that was judged in
// its place.
func (f *forwarding) url(address, judged string) *url.URL {
	u := &url.URL{Scheme: "http", Host: address}
	if f.protocol == upstream.TLS || f.protocol == upstream.TLS1 {
		u.Scheme = "https"
	}
	if judged != "" {
		u.Opaque = withQuery(judged, f.target)
		return u
	}
	if !strings.HasPrefix(f.target, "//") {
		u.Opaque = f.target // goes out byte for byte
		return u
	}
	in := f.r.URL
	u.Path, u.RawPath, u.RawQuery, u.ForceQuery = in.Path, f.path, in.RawQuery, in.ForceQuery
	return u
}

// interim passes 1xx answers on. Transports call got in goroutines of their own until stop returns.
type interim struct {
	mu      sync.Mutex
	x       *exchange
	stopped bool
}

func (i *interim) got(code int, header textproto.MIMEHeader) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	// net/http says 100 by itself, when the body is first read, and HTTP/1.0 knows no 1xx.
	if i.stopped || code == http.StatusContinue || !i.x.r.ProtoAtLeast(1, 1) {
		return nil
	}
	h := i.x.w.Header()
	saved := maps.Clone(h)
	clear(h)
	maps.Copy(h, http.Header(header))
	removeHopByHop(h)
	i.x.w.WriteHeader(code)
	clear(h)
	maps.Copy(h, saved)
	return nil
}

func (i *interim) stop() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.stopped = true
}
