package nethttp

import (
	"net/http"
	"strconv"

	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
)

// refuse answers the request with a reason. Nothing may have been sent to the client.
func (x *exchange) refuse(r refusal.Reason) {
	x.reason = r
	a := r.Answer()
	h := x.w.Header()
	h[refusal.Header] = []string{string(r)}
	if isGRPC(x.r) {
		// gRPC clients read the status from what they take for trailers.
		h["Content-Type"] = []string{"application/grpc"}
		h["Grpc-Status"] = []string{strconv.Itoa(a.GRPC)}
		h["Grpc-Message"] = []string{"tulle: " + a.Text}
		x.status = http.StatusOK
		x.w.WriteHeader(x.status)
		return
	}
	text := "tulle: " + a.Text + " (" + string(r) + ")\n"
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
