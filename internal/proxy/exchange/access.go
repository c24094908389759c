package exchange

import (
	"context"
	"slices"

	"github.com/tulle-mesh/tulle/internal/access"
	"github.com/tulle-mesh/tulle/internal/proxy/policy"
	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// Denied says that the request may not be sent: the caller may not call the endpoint that was chosen, or the service is
// not to get more requests. Nothing was sent.
type Denied struct{ Reason refusal.Reason }

func (d *Denied) Error() string { return string(d.Reason) }

// judge asks whether the caller may call an endpoint.
func (x *Exchange) judge(ctx context.Context, e *upstream.Endpoint) error {
	v := x.Mesh.Gate.Judge(ctx, x.Call(e))
	if !v.Allow {
		return &Denied{refusal.Reason(v.Reason)}
	}
	x.Audit, x.judged = v.Reason, v.Path
	return nil
}

// Call is what access control judges of a call to an endpoint. It is valid as long as the exchange lasts.
func (x *Exchange) Call(e *upstream.Endpoint) policy.Call {
	x.seen = access.Request{Method: x.Method, Path: x.Path, Host: x.Host, Values: x.Values, EncodedSlash: x.Port.EncodedSlash}
	return policy.Call{Peer: x.peer(), Port: x.Port, Endpoint: e, Request: &x.seen}
}

func (x *Exchange) peer() policy.Peer {
	return policy.Peer{Address: x.Client.Addr, Tunnel: x.Client.Binding.Tunnel}
}

// way says how an endpoint is reached for the client.
func (x *Exchange) way(e *upstream.Endpoint) (*upstream.Way, error) {
	if e.Near() || x.Client.Binding.Tunnel != nil {
		return e.Direct(), nil
	}
	return e.Way(x.Mesh.Gate.Caller(x.peer()), upstream.Use{
		Service: x.Backend.Service, Port: x.Backend.Port, HTTP: true, Scheme: x.Backend.Scheme, EncodedSlash: x.Port.EncodedSlash,
	})
}

// Told is what the client is told of a reason: the code, and a line for people.
func (x *Exchange) Told(r refusal.Reason) (refusal.Reason, string) {
	if x.Endpoint == nil || !slices.Contains(access.Reasons(), access.Reason(r)) {
		return r, r.Answer().Text
	}
	return x.Mesh.Gate.Told(x.Call(x.Endpoint), r)
}

// ClientCert is what Endpoint is told about who calls, the value of policy.ClientCert; empty if nobody knows.
func (x *Exchange) ClientCert() string {
	known := &x.Client.cert
	if x.Caller != nil && x.Caller == known.caller && x.Endpoint.Workload() == known.workload && !x.Caller.Expired() {
		return known.text
	}
	text := x.Mesh.Gate.ClientCertOf(x.Call(x.Endpoint))
	if x.Client.Counted != nil { // it has one goroutine
		*known = cert{x.Caller, x.Endpoint.Workload(), text}
	}
	return text
}

// cert is the last ClientCert of a connection: mostly it is the next one, too.
type cert struct {
	caller         *route.Caller
	workload, text string
}

// Node is how the field Forwarded writes the client's address (RFC 7239, section 6).
func (c *Client) Node() string {
	if c.Addr.Is4() {
		return c.Text
	}
	return `"[` + c.Addr.String() + `]"`
}
