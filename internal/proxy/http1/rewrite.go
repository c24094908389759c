package http1

import (
	"strconv"

	"github.com/tulle-mesh/tulle/internal/proxy/exchange"
	"github.com/tulle-mesh/tulle/internal/proxy/policy"
)

// kinds is a set of kinds of fields.
type kinds uint32

func kindsOf(list ...kind) (k kinds) {
	for _, one := range list {
		k |= 1 << one
	}
	return k
}

// hop is what never goes further than one connection: the next one has its own.
var hop = kindsOf(connection, hopByHop, contentLength, transferEncoding, te, upgrade)

// appendKept copies the field lines that are not of these kinds, in runs as long as possible.
func (h *head) appendKept(out []byte, without kinds) []byte {
	if len(h.fields) == 0 {
		return out
	}
	run := h.fields[0].line
	for i := range h.fields {
		f := &h.fields[i]
		if f.dropped || without>>f.kind&1 != 0 {
			out = append(out, h.b[run:f.line]...)
			run = f.end
		}
	}
	return append(out, h.b[run:h.fields[len(h.fields)-1].end]...)
}

func appendField(out []byte, name, value string) []byte {
	out = append(out, name...)
	out = append(out, ": "...)
	out = append(out, value...)
	return append(out, "\r\n"...)
}

func appendLength(out []byte, n int64) []byte {
	out = append(out, "Content-Length: "...)
	out = strconv.AppendInt(out, n, 10)
	return append(out, "\r\n"...)
}

const chunkedField = "Transfer-Encoding: chunked\r\n"

// hopHeader is what the proxy says to an endpoint itself.
type hopHeader struct {
	target string // what is asked for, in origin form
	host   string // if the client named none, which HTTP/1.0 allows
	client *exchange.Client
	cert   string // who calls
	far    bool   // the client is another node's proxy, which has said where the request comes from
}

// appendHead makes the head that goes to an endpoint.
func (r *request) appendHead(out []byte, own hopHeader) []byte {
	out = append(out, r.method...)
	out = append(out, ' ')
	out = append(out, own.target...)
	out = append(out, " HTTP/1.1\r\n"...)
	without := hop | 1<<meshOwn
	if !own.far {
		without |= 1<<forwardedFor | 1<<forwarded
	}
	if r.body.framing != chunked {
		without |= 1 << trailer
	}
	if !r.expects || r.body.framing == none {
		without |= 1 << expect
	}
	seen := r.seen()
	if seen>>host&1 == 0 {
		if r.hasHost {
			own.host = view(r.host)
		}
		out = appendField(out, "Host", own.host)
	}
	out = r.appendKept(out, without)
	if !own.far {
		out = r.appendForwarded(out, own.client, seen)
	}
	if own.cert != "" {
		out = appendField(out, policy.ClientCert, own.cert)
	}
	switch {
	case r.body.framing == chunked:
		out = append(out, chunkedField...)
	case r.lengthField:
		out = appendLength(out, r.body.length)
	}
	if r.trailers {
		out = append(out, "Te: trailers\r\n"...) // gRPC servers insist on it
	}
	if r.upgrade != nil {
		out = append(out, "Connection: Upgrade\r\n"...)
		out = appendField(out, "Upgrade", view(r.upgrade))
	}
	return append(out, "\r\n"...)
}

// seen is the kinds of fields that are passed on.
func (h *head) seen() (k kinds) {
	for i := range h.fields {
		if f := &h.fields[i]; !f.dropped {
			k |= 1 << f.kind
		}
	}
	return k
}

// appendForwarded adds the client's address to X-Forwarded-For, and says what else the client meant unless somebody
// before us has.
func (r *request) appendForwarded(out []byte, client *exchange.Client, seen kinds) []byte {
	out = append(out, "X-Forwarded-For: "...)
	if seen>>forwardedFor&1 != 0 {
		out = r.appendBefore(out, forwardedFor)
	}
	out = append(out, client.Text...)
	out = append(out, "\r\n"...)
	if seen>>forwarded&1 != 0 { // RFC 7239; who doesn't use it gets none
		out = append(out, "Forwarded: "...)
		out = r.appendBefore(out, forwarded)
		out = append(out, "for="...)
		out = append(out, client.Node()...)
		out = append(out, ";proto=http\r\n"...)
	}
	if seen>>forwardedProto&1 == 0 {
		out = append(out, "X-Forwarded-Proto: http\r\n"...)
	}
	if seen>>forwardedHost&1 == 0 && len(r.host) > 0 {
		out = appendField(out, "X-Forwarded-Host", view(r.host))
	}
	return out
}

// appendBefore adds what those before us have said in fields of a kind.
func (r *request) appendBefore(out []byte, k kind) []byte {
	for i := range r.fields {
		if f := &r.fields[i]; f.kind == k && !f.dropped {
			out = append(out, r.value(f)...)
			out = append(out, ", "...)
		}
	}
	return out
}

// appendHead makes the head that goes to a client.
func (r *response) appendHead(out []byte, framing framing, close bool) []byte {
	out = append(out, "HTTP/1.1 "...)
	out = strconv.AppendInt(out, int64(r.status), 10)
	out = append(out, ' ')
	out = append(out, r.reason...)
	out = append(out, "\r\n"...)
	without := hop
	if framing != chunked {
		without |= 1 << trailer
	}
	out = r.appendKept(out, without)
	switch {
	case framing == chunked:
		out = append(out, chunkedField...)
	case r.framing.hasLength && r.status >= 200 && r.status != 204:
		out = appendLength(out, r.framing.length)
	}
	switch {
	case r.status == 101:
		out = append(out, "Connection: Upgrade\r\n"...)
		out = appendField(out, "Upgrade", view(r.upgrade))
	case close:
		out = append(out, "Connection: close\r\n"...)
	}
	return append(out, "\r\n"...)
}
