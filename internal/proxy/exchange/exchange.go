// Package exchange is what the mesh does with an HTTP request, whatever version of HTTP carries it: where it goes, how
// often it is tried, and how it is counted and logged. Reading and writing messages is for the packages that use it.
//
// An Exchange belongs to one goroutine.
package exchange

import (
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/access"
	"github.com/tulle-mesh/tulle/internal/proxy/balance"
	"github.com/tulle-mesh/tulle/internal/proxy/meter"
	"github.com/tulle-mesh/tulle/internal/proxy/policy"
	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/share"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// Mesh is what all exchanges of a proxy share.
type Mesh struct {
	Table func() *route.Table
	Gate  *policy.Gate
	Meter *meter.Meter
	Log   *slog.Logger
	// Retries bound how many retries there are of a service's requests.
	Retries balance.Allowance
	// Strangers is the account of clients that nobody knows.
	Strangers *share.Account
}

// Client is the other end of a connection.
type Client struct {
	Binding *route.Binding // what the listener stood for when the connection was accepted
	Addr    netip.Addr
	Text    string       // Addr as text
	Counted *meter.Cache // nil if the client's requests are counted by several goroutines
	// Admitted says that the caller's own proxy has let the requests pass: what it limits is not limited again.
	Admitted bool
	Share    *share.Account // that bytes count for which are buffered for it; nil counts nothing
	cert     cert
}

// NewClient returns the client of a connection that counts for an account. What is buffered for a caller at the other end
// of a tunnel counts for the caller's.
func NewClient(c net.Conn, b *route.Binding, a *share.Account) Client {
	out := Client{Binding: b, Admitted: b.Tunnel != nil, Share: a}
	if b.Tunnel != nil {
		out.Share = b.Tunnel.Share
	}
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		out.Addr = a.AddrPort().Addr().Unmap()
		out.Text = out.Addr.String()
	}
	return out
}

// Exchange is one request and its response.
type Exchange struct {
	Mesh   *Mesh
	Client *Client
	Begun  time.Time

	// Request is what the request is judged by. Its strings are valid as long as the exchange lasts.
	route.Request
	Protocol string // "HTTP/1.1"
	// Target is what is asked for, in origin form: the path with the query, byte for byte as the client sent it unless
	// routes judge paths, which need the one form that a path has.
	Target string

	// What was decided, as far as it got.
	Caller   *route.Caller
	Port     *route.Port
	Route    *route.Route
	Backend  *route.Backend
	Endpoint *upstream.Endpoint
	Attempts int

	// How it ended.
	Status  int // that the client got; 0 if it went away before
	Reason  refusal.Reason
	Audit   access.Reason // why access control would have refused it
	In, Out int64         // bytes of the bodies

	share    *share.Account // that the request counts for, nil if it doesn't
	asking   time.Time      // when the endpoint was asked, for the last time
	far      bool           // it was asked through the proxy of its node
	bodyless bool
	answered bool // the endpoint's answer began

	asked  string         // the path as the client sent it
	judged string         // the path that Endpoint's policy judged, if that is another one
	seen   access.Request // what policies judge
}

// SetTarget sets Target, and Path, which is a part of it.
func (x *Exchange) SetTarget(target string) {
	x.Target = target
	x.Path, _, _ = strings.Cut(target, "?")
	x.asked = x.Path
}

// Sent is what Endpoint is asked for: whoever judged another form of the path must be sent that form.
func (x *Exchange) Sent() string {
	if x.judged == "" {
		return x.Target
	}
	return x.judged + x.Target[len(x.Path):]
}

// canonicalise gives the path its one form. It is false if it has none.
func (x *Exchange) canonicalise() bool {
	path, ok := access.Canonical(x.Path, x.Port.EncodedSlash)
	if ok && path != x.Path {
		x.Target = path + x.Target[len(x.Path):]
		x.Path = path
	}
	return ok
}

// Decide chooses the backend, or says why there is none.
func (x *Exchange) Decide() refusal.Reason {
	table := x.Mesh.Table()
	if t := x.Client.Binding.Tunnel; t != nil {
		x.Caller = t.Caller
		t.Used()
	} else {
		x.Caller = table.Callers[x.Client.Addr]
	}
	var reason refusal.Reason
	if x.Port, reason = table.HTTPPort(x.Client.Binding, x.Host); reason != "" {
		return reason
	}
	if !x.takeShare() {
		return refusal.OverShare
	}
	if x.Method == http.MethodConnect {
		return refusal.ConnectMethod
	}
	if x.Port.JudgesPaths && !x.canonicalise() {
		return refusal.BadPath
	}
	if x.Route = x.Port.Match(&x.Request); x.Route == nil {
		return refusal.NoRoute
	}
	if x.Backend = x.Route.Next(); x.Backend == nil {
		return refusal.NoBackend
	}
	return ""
}

// ServerName is what TLS backends are asked for: the Service's name as pods know it.
func (x *Exchange) ServerName() string {
	namespace, name, _ := strings.Cut(x.Backend.Service, "/")
	return name + "." + namespace + ".svc"
}

// takeShare says whether the caller's namespace may have another request under way.
func (x *Exchange) takeShare() bool {
	if x.Client.Admitted {
		return true
	}
	account := x.Mesh.Strangers
	if x.Caller != nil {
		account = x.Caller.Share
	}
	if !account.Begin() {
		return false
	}
	x.share = account
	return true
}

// ReleaseShare ends that the exchange counts as a request under way.
func (x *Exchange) ReleaseShare() {
	x.share.End()
	x.share = nil
}

// End counts and logs the exchange, and returns how long it took.
func (x *Exchange) End() (took time.Duration) {
	x.ReleaseShare()
	p := meter.Peers{}
	if x.Caller != nil {
		p.SourceNamespace, p.SourceWorkload = x.Caller.Namespace, x.Caller.Workload
	}
	if x.Port != nil {
		p.Namespace, p.Service, p.Port = x.Port.Service.Namespace, x.Port.Service.Short, x.Port.Number
	}
	if x.Backend != nil {
		p.Backend = x.Backend.Service
	}
	took = time.Since(x.Begun)
	m := x.Mesh.Meter
	if x.Reason != "" {
		x.failed()
		m.Refused("http", p.Namespace, p.Service, x.Reason)
	}
	if x.Client.Binding.Tunnel != nil {
		return took // all else is counted and logged by the proxy of the caller's node
	}
	m.Request(x.Client.Counted, meter.Exchange{Peers: p, Status: x.Status, Duration: took, In: x.In, Out: x.Out})
	if m.Logs() {
		m.Log(x.entry(p, took))
	}
	return took
}

func (x *Exchange) entry(p meter.Peers, took time.Duration) *meter.Entry {
	e := &meter.Entry{
		Time: x.Begun, Protocol: x.Protocol, Client: x.Client.Text,
		SourceNamespace: p.SourceNamespace, SourceWorkload: p.SourceWorkload,
		Namespace: p.Namespace, Service: p.Service, Port: p.Port, Backend: p.Backend,
		Method: x.Method, Host: x.Host, Path: x.asked,
		Status: x.Status, Reason: string(x.Reason), Audit: string(x.Audit), BytesIn: x.In, BytesOut: x.Out,
		Seconds: took.Seconds(), Attempts: x.Attempts,
	}
	if x.Caller != nil {
		e.SourcePod = x.Caller.Pod
	}
	if x.Route != nil {
		e.Split = x.Route.Split
	}
	if x.Endpoint != nil {
		e.Endpoint = x.Endpoint.Address()
	}
	return e
}
