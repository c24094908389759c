package http1

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
)

// reasonOf names what is wrong with a request.
func reasonOf(err error) refusal.Reason {
	if e, ok := errors.AsType[*Error](err); ok {
		switch e.Status {
		case http.StatusRequestURITooLong:
			return refusal.TargetTooLong
		case http.StatusRequestHeaderFieldsTooLarge:
			return refusal.HeadTooLarge
		case http.StatusNotImplemented:
			return refusal.BadCoding
		case http.StatusHTTPVersionNotSupported:
			return refusal.BadVersion
		}
	}
	return refusal.BadRequest
}

// refuseHead answers what is no request, and ends the connection: where the next one begins isn't known.
func (c *conn) refuseHead(r refusal.Reason) {
	c.request = request{head: head{fields: c.request.fields[:0]}, close: true}
	c.setPhase(-c.server.now())
	c.begin()
	c.x.Port, _ = c.x.Mesh.Table().HTTPPort(c.client.Binding, "")
	c.linger = true
	c.reqBody.begin(c.tcp, body{}, nil, 0)
	c.refuse(r)
	c.end()
}

// refuse answers the request with a reason. Nothing of an answer may have been sent.
func (c *conn) refuse(r refusal.Reason) {
	x := &c.x
	told, line := x.Told(r)
	a := told.Answer()
	x.Reason, x.Status, c.begun = r, a.Status, true
	c.skipBody()
	if r == refusal.ConnectMethod {
		c.closing = true // what follows is for the tunnel that there is none of
	}
	c.toClient.begin(c.tcp, c.out, smallBuffer)
	defer c.toClient.free()
	b := append(c.toClient.buffer, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(a.Status), 10)
	b = append(b, ' ')
	b = append(b, http.StatusText(a.Status)...)
	b = append(b, "\r\n"...)
	b = appendField(b, refusal.Header, string(told))
	if r == refusal.ConnectMethod {
		b = appendField(b, "Allow", "")
	}
	text := "tulle: " + line + " (" + string(told) + ")\n"
	b = appendField(b, "Content-Type", "text/plain; charset=utf-8")
	b = appendLength(b, int64(len(text)))
	if c.closing {
		b = append(b, "Connection: close\r\n"...)
	}
	b = append(b, "\r\n"...)
	c.toClient.buffer = b
	if x.Method != http.MethodHead {
		_ = c.toClient.add([]byte(text)) // it fits
	}
	if c.toClient.flush() != nil {
		c.closing = true // the client went away
	}
}

// skipBody passes over a request's body that nobody will get. One that was not read to its end ends the connection.
func (c *conn) skipBody() {
	for !c.reqBody.ended.Load() {
		data, err := c.reqBody.ready()
		if err != nil || len(data) == 0 && !c.reqBody.ended.Load() {
			c.closing, c.linger = true, true
			return
		}
	}
}
