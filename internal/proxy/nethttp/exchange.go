package nethttp

import (
	"context"
	"errors"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/access"
	"github.com/tulle-mesh/tulle/internal/proxy/meter"
	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// exchange is one request and its response. It belongs to the goroutine that net/http runs the handler in; what other
// goroutines touch says so.
type exchange struct {
	server *Server
	w      http.ResponseWriter
	r      *http.Request
	client *client
	begun  time.Time
	body   *requestBody
	target string // in origin form, the path with the query: as sent, or canonical if a route judged it so
	path   string // without the query
	logged string // the path as sent

	caller   *route.Caller
	port     *route.Port
	route    *route.Route
	backend  *route.Backend
	endpoint *upstream.Endpoint
	attempts int

	status int // sent to the client
	reason refusal.Reason
	audit  access.Reason // why access control would have refused it
	sent   int64         // bytes of the response's body
}

// errTimeout is the cause of a context that ended with the service's time limit.
var errTimeout = errors.New("time limit of the service")

func (s *Server) handle(w http.ResponseWriter, r *http.Request) {
	if !s.begin() {
		panic(http.ErrAbortHandler)
	}
	defer s.handlers.Done()
	x := &exchange{server: s, w: w, r: r, begun: time.Now(), client: r.Context().Value(connKey{}).(*client)}
	x.target = target(r)
	x.path, _, _ = strings.Cut(x.target, "?")
	x.logged = x.path
	x.body = newRequestBody(w, r)
	defer x.end()
	if s.draining.Load() || x.client.binding.Closed.Load() {
		x.close()
	}
	x.serve()
}

// close ends the connection after this exchange; on HTTP/2 it is a GOAWAY.
func (x *exchange) close() { x.w.Header()["Connection"] = []string{"close"} }

func (x *exchange) serve() {
	table := x.server.config.Table()
	x.caller = table.Callers[x.client.addr]
	var reason refusal.Reason
	if x.port, reason = table.HTTPPort(x.client.binding, x.r.Host); reason != "" {
		x.refuse(reason)
		return
	}
	switch {
	case x.r.Method == http.MethodConnect:
		x.refuse(refusal.ConnectMethod)
		return
	case !x.agrees():
		x.refuse(refusal.BadRequest)
		return
	case x.port.JudgesPaths && !x.canonicalise():
		x.refuse(refusal.BadPath)
		return
	case !x.passable():
		x.refuse(refusal.BadRequest)
		return
	}
	x.route = x.port.Match(&route.Request{
		Method: x.r.Method, Path: x.path, Host: x.r.Host,
		Values: func(name string) []string { return x.r.Header[name] },
	})
	if x.route == nil {
		x.refuse(refusal.NoRoute)
		return
	}
	if x.backend = x.route.Next(); x.backend == nil {
		x.refuse(refusal.NoBackend)
		return
	}
	ctx, cancel := context.WithCancelCause(x.r.Context())
	defer cancel(nil)
	limit := x.limit(cancel)
	if limit != nil {
		defer limit.Stop()
	}
	x.forward(ctx, limit)
}

// limit ends the request with errTimeout after the service's time limit; nil if it has none.
func (x *exchange) limit(cancel context.CancelCauseFunc) *time.Timer {
	if x.port.Timeout == 0 {
		return nil
	}
	return time.AfterFunc(x.port.Timeout, func() { cancel(errTimeout) })
}

// end counts and logs the exchange, whatever happened.
func (x *exchange) end() {
	p := recover()
	if p != nil && p != http.ErrAbortHandler { //nolint:errorlint // net/http compares it this way, too
		x.panicked(p)
		if x.status == 0 {
			x.close()
			x.refuse(refusal.Internal)
			p = nil
		} else {
			p = http.ErrAbortHandler // ends the connection or stream, and is not logged again
		}
	}
	x.count()
	x.body.release()
	if p != nil {
		panic(p)
	}
}

func (x *exchange) panicked(p any) {
	x.server.config.Meter.Panicked("http")
	x.server.config.Log.Error("panic in an http request", "panic", p, "stack", string(debug.Stack()))
	x.reason = refusal.Internal
}

func (x *exchange) count() {
	s := x.server
	p := meter.Peers{}
	if x.caller != nil {
		p.SourceNamespace, p.SourceWorkload = x.caller.Namespace, x.caller.Workload
	}
	if x.port != nil {
		p.Namespace, p.Service, p.Port = x.port.Service.Namespace, x.port.Service.Short, x.port.Number
	}
	if x.backend != nil {
		p.Backend = x.backend.Service
	}
	took := time.Since(x.begun)
	s.config.Meter.Request(meter.Exchange{Peers: p, Status: x.status, Duration: took, In: x.body.count.Load(), Out: x.sent})
	if x.reason != "" {
		s.config.Meter.Refused("http", p.Namespace, p.Service, x.reason)
	}
	if s.config.Meter.Logs() {
		s.config.Meter.Log(x.entry(p, took))
	}
}

func (x *exchange) entry(p meter.Peers, took time.Duration) *meter.Entry {
	e := &meter.Entry{
		Time: x.begun, Protocol: x.r.Proto, Client: x.client.addr.String(),
		SourceNamespace: p.SourceNamespace, SourceWorkload: p.SourceWorkload,
		Namespace: p.Namespace, Service: p.Service, Port: p.Port, Backend: p.Backend,
		Method: x.r.Method, Host: x.r.Host, Path: x.logged,
		Status: x.status, Reason: string(x.reason), Audit: string(x.audit), BytesIn: x.body.count.Load(), BytesOut: x.sent,
		Seconds: took.Seconds(), Attempts: x.attempts,
	}
	if x.caller != nil {
		e.SourcePod = x.caller.Pod
	}
	if x.route != nil {
		e.Split = x.route.Split
	}
	if x.endpoint != nil {
		e.Endpoint = x.endpoint.Address()
	}
	return e
}

// agrees says that all places of the request that name its host name the same one.
func (x *exchange) agrees() bool {
	for _, host := range x.r.Header["Host"] { // of HTTP/2, beside :authority
		if host != x.r.Host {
			return false
		}
	}
	return true
}

// canonicalise gives the path its one form; it is false if it has none.
func (x *exchange) canonicalise() bool {
	path, ok := access.Canonical(x.path, x.port.EncodedSlash)
	if !ok {
		return false
	}
	x.target = withQuery(path, x.target)
	x.path = path
	return true
}

// withQuery is a path with the query of a target.
func withQuery(path, target string) string {
	if i := strings.IndexByte(target, '?'); i >= 0 {
		return path + target[i:]
	}
	return path
}

// passable says that the request target can be passed on byte for byte. HTTP/2 lets in what HTTP/1 has no way to say,
// and net/http rewrites what begins with two slashes unless it is written in its own way.
func (x *exchange) passable() bool {
	if strings.ContainsFunc(x.target, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		return false
	}
	return !strings.HasPrefix(x.target, "//") || x.r.URL.EscapedPath() == x.path
}

// target is the request target in origin form, byte for byte as the client sent it. The absolute form loses its scheme
// and authority, as those of the next hop take their place.
func target(r *http.Request) string {
	uri := r.RequestURI
	if r.ProtoMajor > 1 || uri == "*" || strings.HasPrefix(uri, "/") {
		return uri
	}
	_, rest, ok := strings.Cut(uri, "://")
	if !ok {
		return uri
	}
	i := strings.IndexAny(rest, "/?")
	if i < 0 {
		return "/"
	}
	if rest[i] == '?' {
		return "/" + rest[i:]
	}
	return rest[i:]
}
