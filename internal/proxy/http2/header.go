package http2

import (
	"net/http"
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

// requestHeader makes the header that is sent to the endpoint.
func (c *carrier) requestHeader() http.Header {
	h := c.r.Header.Clone()
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
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = []string{""} // none is added
	}
	if c.Client.Binding.Tunnel != nil {
		return h // the caller's proxy has said where the request comes from
	}
	forwarded := c.Client.Text
	if before := h["X-Forwarded-For"]; len(before) > 0 {
		forwarded = strings.Join(before, ", ") + ", " + forwarded
	}
	h["X-Forwarded-For"] = []string{forwarded}
	if before := h["Forwarded"]; len(before) > 0 {
		h["Forwarded"] = []string{strings.Join(before, ", ") + ", for=" + c.Client.Node() + ";proto=http"}
	}
	if _, ok := h["X-Forwarded-Proto"]; !ok {
		h["X-Forwarded-Proto"] = []string{"http"}
	}
	if _, ok := h["X-Forwarded-Host"]; !ok && c.r.Host != "" {
		h["X-Forwarded-Host"] = []string{c.r.Host}
	}
	return h
}
