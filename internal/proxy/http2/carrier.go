package http2

import (
	"context"
	"errors"
	"net/http"
	"runtime/debug"
	"strings"
	"sync/atomic"
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

	uploads    *uploads                // of the connection
	down       backlog                 // what the endpoint has sent
	cancel     context.CancelCauseFunc // with nil if the exchange is over
	delivering atomic.Bool             // the answer is written
	overShare  atomic.Bool             // there was no room for what is buffered
}

// What a context ended with.
var (
	errTimeout   = errors.New("time limit of the service")
	errOverShare = errors.New("too much is buffered")
)

// handle serves a request of an HTTP/2 client.
func (s *Server) handle(w http.ResponseWriter, r *http.Request) {
	if !s.begin() {
		panic(http.ErrAbortHandler)
	}
	defer s.handlers.Done()
	client := r.Context().Value(connKey{}).(*client)
	x := &exchange.Exchange{
		Mesh: s.config.Mesh, Client: &client.Client, Begun: time.Now(), Protocol: r.Proto,
		Request: route.Request{Method: r.Method, Host: r.Host, Values: func(name string) []string { return r.Header[name] }},
	}
	x.SetTarget(r.RequestURI)
	c := &carrier{Exchange: x, server: s, w: w, r: r, body: newRequestBody(w, r, x.Client.Share), uploads: &client.uploads}
	defer c.end()
	if s.draining.Load() || x.Client.Binding.Closed.Load() {
		c.close()
	}
	if !c.agrees() {
		c.refuse(refusal.BadRequest)
		return
	}
	client.Share.TurnToBegin()
	if reason := x.Decide(); reason != "" {
		c.refuse(reason)
		return
	}
	c.carry()
}

// Forward passes on a request of an HTTP/1 client to an endpoint that is not spoken to in HTTP/1, or not in the clear.
func (s *Server) Forward(w http.ResponseWriter, r *http.Request, x *exchange.Exchange) {
	c := &carrier{
		Exchange: x, server: s, w: w, r: r, body: newRequestBody(w, r, x.Client.Share), uploads: &uploads{account: x.Client.Share},
	}
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
	c.cancel = cancel
	c.watchBody()
	c.forward(ctx)
}

// watchBody counts what the client sends before it can be passed on.
func (c *carrier) watchBody() {
	if c.body.none() {
		return
	}
	up := &c.body.up
	up.room, up.shed, up.length, up.window = c.uploads, c.shed, c.r.ContentLength, streamWindow
	if c.r.ProtoMajor == 1 {
		up.window = copied
	}
	up.begin()
}

// shed ends the exchange, as there is no room for what it has buffered. The client is told if nothing else was.
func (c *carrier) shed() {
	c.overShare.Store(true)
	c.cancel(errOverShare)
	if c.delivering.Load() {
		_ = c.body.w.SetWriteDeadline(time.Unix(1, 0)) // fails on a connection that is gone
	}
}

// settle is done with the bodies.
func (c *carrier) settle() {
	c.down.end()
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
