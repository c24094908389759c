package nethttp

import (
	"net/http"
	"slices"
	"strconv"

	"github.com/tulle-mesh/tulle/internal/access"
	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
)

// refuse answers the request with a reason. Nothing may have been sent to the client.
func (x *exchange) refuse(r refusal.Reason) {
	x.reason = r
	r, line := x.told(r)
	a := r.Answer()
	h := x.w.Header()
	h[refusal.Header] = []string{string(r)}
	if isGRPC(x.r) {
		// gRPC clients read the status from what they take for trailers.
		h["Content-Type"] = []string{"application/grpc"}
		h["Grpc-Status"] = []string{strconv.Itoa(a.GRPC)}
		h["Grpc-Message"] = []string{"tulle: " + line}
		x.status = http.StatusOK
		x.w.WriteHeader(x.status)
		return
	}
	text := "tulle: " + line + " (" + string(r) + ")\n"
	h["Content-Type"] = []string{"text/plain; charset=utf-8"}
	h["Content-Length"] = []string{strconv.Itoa(len(text))}
	if r == refusal.ConnectMethod {
		h["Allow"] = []string{""}
	}
	x.status = a.Status
	x.w.WriteHeader(x.status)
	n, _ := x.w.Write([]byte(text)) // to a client that went away
	x.sent += int64(n)
}

// told is what the client is told of a reason.
func (x *exchange) told(r refusal.Reason) (refusal.Reason, string) {
	if x.endpoint == nil || !slices.Contains(access.Reasons(), access.Reason(r)) {
		return r, r.Answer().Text
	}
	return x.server.config.Gate.Told(x.callOf(x.endpoint), r)
}
