package http1

import "bytes"

// What is wrong with a response. Their statuses are never sent: the client is told of a bad gateway.
var (
	errStatusLine  = &Error{502, "not a status line"}
	errStatus      = &Error{502, "not a status"}
	errOldVersion  = &Error{502, "neither HTTP/1.1 nor HTTP/1.0"}
	errLongStatus  = &Error{502, "the status line is too long"}
	errSwitchField = &Error{502, "a switch of protocols without Upgrade"}
)

// response is a response's head, in place.
type response struct {
	head
	minor   int
	status  int
	reason  []byte // as sent
	framing bodyFields
	upgrade []byte
	close   bool
}

// parse reads the head that b begins with, and returns its length; 0 if b ends first.
func (r *response) parse(b []byte, l Limits) (int, error) {
	*r = response{head: head{fields: r.fields}}
	n := bytes.IndexByte(b[:min(len(b), l.Line+2)], '\n')
	if n < 0 {
		if len(b) >= l.Line+2 {
			return 0, errLongStatus
		}
		return 0, nil
	}
	if n == 0 || b[n-1] != '\r' {
		return 0, errLineEnd
	}
	if err := r.line(b[:n-1]); err != nil {
		return 0, err
	}
	end, err := r.head.parse(b, n+1, l)
	if err != nil || end == 0 {
		return 0, err
	}
	if err := r.settle(); err != nil {
		return 0, err
	}
	return end, nil
}

// line reads the version and the status (RFC 9112, 4). The space behind the status may be missing where there is no
// reason phrase: the meaning is the same.
func (r *response) line(b []byte) error {
	if len(b) < 12 || b[8] != ' ' || len(b) > 12 && b[12] != ' ' {
		return errStatusLine
	}
	switch string(b[:8]) {
	case "HTTP/1.1":
		r.minor = 1
	case "HTTP/1.0":
	default:
		return errOldVersion
	}
	for _, c := range b[9:12] {
		if c < '0' || c > '9' {
			return errStatus
		}
		r.status = r.status*10 + int(c-'0')
	}
	if r.status < 100 {
		return errStatus
	}
	if len(b) > 13 {
		r.reason = b[13:]
	}
	if !clean(r.reason) {
		return errStatusLine
	}
	return nil
}

func (r *response) settle() error {
	for i := range r.fields {
		f := &r.fields[i]
		if f.kind == other {
			continue
		}
		value := r.value(f)
		var err error
		switch f.kind {
		case contentLength:
			err = r.framing.addLength(value)
		case transferEncoding:
			err = r.framing.addCoding(value)
		case connection:
			r.connection(value)
		case upgrade:
			r.upgrade = value
		}
		if err != nil {
			return err
		}
	}
	if r.minor == 0 {
		r.close = true
	}
	if r.status == 101 && len(r.upgrade) == 0 {
		return errSwitchField
	}
	return r.framing.check(r.minor)
}

func (r *response) connection(value []byte) {
	for rest := value; rest != nil; {
		var e []byte
		e, rest = element(rest)
		switch {
		case len(e) == 0 || is(e, "keep-alive") || is(e, "upgrade"):
		case is(e, "close"):
			r.close = true
		default:
			r.drop(e)
		}
	}
}

// body returns the body of an answer to a request (RFC 9112, 6.3), and whether a status that has none was sent with the
// fields of one: where such a response ends isn't sure.
func (r *response) body(headRequest bool) (b body, odd bool) {
	switch {
	case headRequest, r.status == 304:
		return body{}, false
	case r.status < 200, r.status == 204:
		return body{}, r.framing.cod || r.framing.length > 0
	}
	return r.framing.response(), false
}
