package http2

import (
	"context"
	"errors"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/exchange"
	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
)

// carrier carries one exchange by net/http's types. It belongs to the goroutine that the handler runs in; what other
// goroutines touch says so.
type carrier struct {
	*exchange.Exchange
	server *Server
	w      http.ResponseWriter
	r      *http.Request
	body   *requestBody
	begun  bool // the answer's head was sent
}

// errTimeout is the cause of a context that ended with the service's time limit.
var errTimeout = errors.New("time limit of the service")

// handle serves a request of an HTTP/2 client.
func (s *Server) handle(w http.ResponseWriter, r *http.Request) {
	if !s.begin() {
		panic(http.ErrAbortHandler)
	}
	defer s.handlers.Done()
	x := &exchange.Exchange{
		Mesh: s.config.Mesh, Client: r.Context().Value(connKey{}).(*exchange.Client), Begun: time.Now(), Protocol: r.Proto,
		Request: route.Request{Method: r.Method, Host: r.Host, Values: func(name string) []string { return r.Header[name] }},
	}
	x.SetTarget(r.RequestURI)
	c := &carrier{Exchange: x, server: s, w: w, r: r, body: newRequestBody(w, r)}
	defer c.end()
	if s.draining.Load() || x.Client.Binding.Closed.Load() {
		c.close()
	}
	if !c.agrees() {
		c.refuse(refusal.BadRequest)
		return
	}
	if reason := x.Decide(); reason != "" {
		c.refuse(reason)
		return
	}
	c.carry()
}

// Forward passes on a request of an HTTP/1 client to an endpoint that is not spoken to in HTTP/1, or not in the clear.
func (s *Server) Forward(w http.ResponseWriter, r *http.Request, x *exchange.Exchange) {
	c := &carrier{Exchange: x, server: s, w: w, r: r, body: newRequestBody(w, r)}
	defer c.settle()
	c.carry()
}

// close ends the connection after this exchange, by a GOAWAY.
func (c *carrier) close() { c.w.Header()["Connection"] = []string{"close"} }

// carry forwards a request for which a backend was chosen.
func (c *carrier) carry() {
	if !c.passable() {
		c.refuse(refusal.BadRequest)
		return
	}
	ctx, cancel := context.WithCancelCause(c.r.Context())
	defer cancel(nil)
	if limit := c.Port.Timeout; limit != 0 {
		timer := time.AfterFunc(limit, func() { cancel(errTimeout) })
		defer timer.Stop()
	}
	c.forward(ctx)
}

// settle is done with the request's body.
func (c *carrier) settle() {
	c.In = c.body.count.Load()
	c.body.release()
}

// end counts and logs the exchange, whatever happened.
func (c *carrier) end() {
	p := recover()
	if p != nil && p != http.ErrAbortHandler { //nolint:errorlint // net/http compares it this way, too
		c.panicked(p)
		if !c.begun {
			c.close()
			c.refuse(refusal.Internal)
			p = nil
		} else {
			p = http.ErrAbortHandler // ends the stream, and is not logged again
		}
	}
	c.settle()
	c.End()
	if p != nil {
		panic(p)
	}
}

func (c *carrier) panicked(p any) {
	c.Mesh.Meter.Panicked("http")
	c.Mesh.Log.Error("panic in an http request", "panic", p, "stack", string(debug.Stack()))
	c.Reason = refusal.Internal
}

// agrees says that all places of the request that name its host name the same one: Host may be there beside :authority.
func (c *carrier) agrees() bool {
	for _, host := range c.r.Header["Host"] {
		if host != c.r.Host {
			return false
		}
	}
	return true
}

// passable says that the request target can be passed on byte for byte. HTTP/2 lets in what HTTP/1 has no way to say,
// and net/http rewrites what begins with two slashes unless it is written in its own way.
func (c *carrier) passable() bool {
	if strings.ContainsFunc(c.Target, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return false
	}
	return !strings.HasPrefix(c.Target, "//") || c.r.URL.EscapedPath() == c.Path
}
