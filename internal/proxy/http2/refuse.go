package http2

import (
	"net/http"
	"strconv"

	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
)

// refuse answers the request with a reason. Nothing may have been sent to the client.
func (c *carrier) refuse(r refusal.Reason) {
	c.Reason, c.begun = r, true
	r, line := c.Told(r)
	a := r.Answer()
	h := c.w.Header()
	h[refusal.Header] = []string{string(r)}
	if isGRPC(c.r) {
		// gRPC clients read the status from what they take for trailers.
		h["Content-Type"] = []string{"application/grpc"}
		h["Grpc-Status"] = []string{strconv.Itoa(a.GRPC)}
		h["Grpc-Message"] = []string{"tulle: " + line}
		c.Status = http.StatusOK
		c.w.WriteHeader(c.Status)
		return
	}
	text := "tulle: " + line + " (" + string(r) + ")\n"
	h["Content-Type"] = []string{"text/plain; charset=utf-8"}
	h["Content-Length"] = []string{strconv.Itoa(len(text))}
	if r == refusal.ConnectMethod {
		h["Allow"] = []string{""}
	}
	c.Status = a.Status
	c.w.WriteHeader(c.Status)
	n, _ := c.w.Write([]byte(text)) // to a client that went away
	c.Out += int64(n)
}
