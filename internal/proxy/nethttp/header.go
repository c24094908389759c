package nethttp

import (
	"net/http"
	"net/netip"
	"net/textproto"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/tulle-mesh/tulle/internal/proxy/policy"
)

// hopByHop are the fields that concern one connection only (RFC 9110, 7.6.1), and the obsolete ones of that kind that
// are still seen. Te and Trailer are handled apart.
var hopByHop = [...]string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	"Proxy-Authenticate", "Proxy-Authorization", "Http2-Settings",
}

// removeHopByHop removes the hop-by-hop fields and those that Connection names.
func removeHopByHop(h http.Header) {
	for _, value := range h["Connection"] {
		for token := range strings.SplitSeq(value, ",") {
			if token = textproto.TrimString(token); token != "" {
				delete(h, textproto.CanonicalMIMEHeaderKey(token))
			}
		}
	}
	for _, name := range hopByHop {
		delete(h, name)
	}
}

// upgrade returns the protocol that the request asks to switch to, empty if it doesn't. HTTP/2 is no protocol to switch
// to: who wants it begins with it.
func upgrade(h http.Header) string {
	if !httpguts.HeaderValuesContainsToken(h["Connection"], "Upgrade") {
		return ""
	}
	protocol := h.Get("Upgrade")
	if strings.EqualFold(protocol, "h2c") {
		return ""
	}
	return protocol
}

// requestHeader makes the header that is sent to the endpoint.
func (x *exchange) requestHeader(upgrade string) http.Header {
	h := x.r.Header.Clone()
	trailers := httpguts.HeaderValuesContainsToken(h["Te"], "trailers")
	removeHopByHop(h)
	for name := range h {
		if policy.IsOwn(name) {
			delete(h, name)
		}
	}
	if trailers {
		h["Te"] = []string{"trailers"} // gRPC servers insist on it
	}
	if upgrade != "" {
		h["Connection"] = []string{"Upgrade"}
		h["Upgrade"] = []string{upgrade}
	}
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = []string{""} // none is added
	}
	forwarded := x.client.addr.String()
	if before := h["X-Forwarded-For"]; len(before) > 0 {
		forwarded = strings.Join(before, ", ") + ", " + forwarded
	}
	h["X-Forwarded-For"] = []string{forwarded}
	if before := h["Forwarded"]; len(before) > 0 {
		h["Forwarded"] = []string{strings.Join(before, ", ") + ", for=" + node(x.client.addr) + ";proto=http"}
	}
	if _, ok := h["X-Forwarded-Proto"]; !ok {
		h["X-Forwarded-Proto"] = []string{"http"}
	}
	if _, ok := h["X-Forwarded-Host"]; !ok && x.r.Host != "" {
		h["X-Forwarded-Host"] = []string{x.r.Host}
	}
	return h
}

// node is how the field Forwarded writes an address (RFC 7239, section 6).
func node(a netip.Addr) string {
	if a.Is4() {
		return a.String()
	}
	return `"[` + a.String() + `]"`
}
