package http1

import (
	"bytes"
	"net/http"
)

// What is wrong with a request.
var (
	errRequestLine  = &Error{400, "not a request line"}
	errMethod       = &Error{400, "not a method"}
	errTarget       = &Error{400, "not a request target"}
	errVersion      = &Error{505, "neither HTTP/1.1 nor HTTP/1.0"}
	errLineTooLong  = &Error{414, "the request line is too long"}
	errNoHost       = &Error{400, "no Host"}
	errHosts        = &Error{400, "more than one Host"}
	errHost         = &Error{400, "Host is not a host"}
	errOtherHost    = &Error{400, "the request target's host is not Host"}
	errEmptyUpgrade = &Error{400, "an Upgrade without a protocol"}
)

// request is a request's head, in place.
type request struct {
	head
	method  []byte
	raw     []byte // the target as sent
	target  []byte // in origin form, or "*"
	host    []byte
	hasHost bool
	minor   int
	body    body

	close       bool   // the client wants the connection to end, or knows no other way
	upgrade     []byte // the protocols that it wants to switch to
	expects     bool   // 100-continue
	trailers    bool   // TE: trailers
	lengthField bool
}

// parse reads the head that b begins with, and returns its length; 0 if b ends first.
func (r *request) parse(b []byte, l Limits) (int, error) {
	*r = request{head: head{fields: r.fields}}
	pos := 0
	if len(b) >= 2 && b[0] == '\r' && b[1] == '\n' {
		pos = 2 // old clients send one behind a body (RFC 9112, 2.2)
	}
	n := bytes.IndexByte(b[pos:min(len(b), pos+l.Line+2)], '\n')
	if n < 0 {
		if len(b) >= pos+l.Line+2 {
			return 0, errLineTooLong
		}
		return 0, nil
	}
	if n == 0 || b[pos+n-1] != '\r' {
		return 0, errLineEnd
	}
	if err := r.line(b[pos : pos+n-1]); err != nil {
		return 0, err
	}
	end, err := r.head.parse(b, pos+n+1, l)
	if err != nil || end == 0 {
		return 0, err
	}
	if err := r.settle(); err != nil {
		return 0, err
	}
	return end, nil
}

// line reads method, target and version, which single spaces part (RFC 9112, 3).
func (r *request) line(b []byte) error {
	i := 0
	for i < len(b) && tokens[b[i]] {
		i++
	}
	if i == 0 || i == len(b) || b[i] != ' ' {
		return errMethod
	}
	r.method = b[:i]
	b = b[i+1:]
	i = bytes.IndexByte(b, ' ')
	if i < 0 {
		return errRequestLine
	}
	r.raw = b[:i]
	if err := r.version(b[i+1:]); err != nil {
		return err
	}
	return r.settleTarget()
}

func (r *request) version(b []byte) error {
	switch string(b) {
	case "HTTP/1.1":
		r.minor = 1
	case "HTTP/1.0":
	default:
		if len(b) == 8 && string(b[:5]) == "HTTP/" && '0' <= b[5] && b[5] <= '9' && b[6] == '.' && '0' <= b[7] && b[7] <= '9' {
			return errVersion
		}
		return errRequestLine
	}
	return nil
}

// settleTarget brings the target into the form that servers get (RFC 9112, 3.2).
func (r *request) settleTarget() error {
	t := r.raw
	switch {
	case len(t) == 0:
		return errTarget
	case string(r.method) == http.MethodConnect:
		if !validHost(t) {
			return errTarget
		}
		r.target = t
		return nil
	case t[0] == '/':
		r.target = t
	case len(t) == 1 && t[0] == '*':
		if string(r.method) != http.MethodOptions {
			return errTarget
		}
		r.target = t
	default:
		if err := r.absolute(); err != nil {
			return err
		}
	}
	return checkTarget(r.target)
}

// absolute takes scheme and authority off a target: those of the next hop take their place.
func (r *request) absolute() error {
	const scheme = "http://"
	if len(r.raw) <= len(scheme) || !is(r.raw[:len(scheme)], scheme) {
		return errTarget
	}
	rest := r.raw[len(scheme):]
	i := bytes.IndexAny(rest, "/?")
	if i < 0 {
		i = len(rest)
	}
	if i == 0 || !validHost(rest[:i]) {
		return errTarget
	}
	r.host, r.hasHost = rest[:i], true
	r.target = rest[i:]
	if len(r.target) == 0 || r.target[0] == '?' {
		r.target = append([]byte{'/'}, r.target...)
	}
	return nil
}

// checkTarget refuses what a target can't have: control characters, a fragment, and escapes in the path that are none.
// Everything else passes, also what a target should not have.
func checkTarget(t []byte) error {
	inPath := true
	for i, c := range t {
		switch {
		case c < '!' || c == 0x7f || c == '#':
			return errTarget
		case c == '?':
			inPath = false
		case c == '%' && inPath && (i+2 >= len(t) || !hex[t[i+1]] || !hex[t[i+2]]):
			return errTarget
		}
	}
	return nil
}

// settle reads the fields that the proxy must know.
func (r *request) settle() error {
	fromTarget, hosts := r.host, 0
	var framing bodyFields
	for i := range r.fields {
		f := &r.fields[i]
		if f.kind == other {
			continue
		}
		if f.kind == host {
			r.host, r.hasHost = r.value(f), true
			hosts++
		}
		if err := r.take(f, &framing); err != nil {
			return err
		}
	}
	switch {
	case hosts > 1:
		return errHosts
	case hosts == 0 && r.minor > 0:
		return errNoHost
	case hosts == 1 && len(r.host) > 0 && !validHost(r.host):
		return errHost
	case hosts == 1 && fromTarget != nil && !fold(fromTarget, r.host):
		return errOtherHost
	}
	if err := framing.check(r.minor); err != nil {
		return err
	}
	r.body, r.lengthField = framing.request(), framing.hasLength
	return r.settleConnection()
}

func (r *request) take(f *field, framing *bodyFields) error {
	value := r.value(f)
	switch f.kind {
	case contentLength:
		return framing.addLength(value)
	case transferEncoding:
		return framing.addCoding(value)
	case expect:
		r.expects = r.expects || is(value, "100-continue")
	case te:
		for rest := value; rest != nil; {
			var e []byte
			e, rest = element(rest)
			r.trailers = r.trailers || is(e, "trailers")
		}
	}
	return nil
}

// settleConnection reads Connection, and Upgrade, which means nothing without it (RFC 9110, 7.6.1 and 7.8).
func (r *request) settleConnection() error {
	switches := false
	for i := range r.fields {
		f := &r.fields[i]
		if f.kind != connection {
			continue
		}
		for rest := r.value(f); rest != nil; {
			var e []byte
			e, rest = element(rest)
			switch {
			case len(e) == 0 || is(e, "keep-alive"):
			case is(e, "close"):
				r.close = true
			case is(e, "upgrade"):
				switches = true
			default:
				r.drop(e)
			}
		}
	}
	if r.minor == 0 {
		r.close, r.expects = true, false // RFC 9112, C.2.2; RFC 9110, 10.1.1
		return nil
	}
	if !switches {
		return nil
	}
	for i := range r.fields {
		if f := &r.fields[i]; f.kind == upgrade {
			if len(r.value(f)) == 0 {
				return errEmptyUpgrade
			}
			if r.upgrade != nil {
				r.upgrade = nil // one list, or none at all
				break
			}
			r.upgrade = r.value(f)
		}
	}
	// HTTP/2 is no protocol to switch to: who wants it begins with it. A body would be in the way of the switch.
	if has(r.upgrade, "h2c") || r.body.framing != none {
		r.upgrade = nil
	}
	return nil
}

// has says whether a list has an element, which is given in lower case.
func has(list []byte, want string) bool {
	for rest := list; rest != nil; {
		var e []byte
		e, rest = element(rest)
		if is(e, want) {
			return true
		}
	}
	return false
}

// validHost says that b is a host with or without a port (RFC 9110, 7.2).
func validHost(b []byte) bool {
	name, port := b, []byte(nil)
	if len(b) > 0 && b[0] == '[' {
		i := bytes.IndexByte(b, ']')
		if i < 2 {
			return false
		}
		name, port = b[1:i], b[i+1:]
		for _, c := range name {
			if !hosts[c] && c != ':' {
				return false
			}
		}
	} else {
		if i := bytes.IndexByte(b, ':'); i >= 0 {
			name, port = b[:i], b[i:]
		}
		if len(name) == 0 || !hosts.all(name) {
			return false
		}
	}
	if len(port) == 0 {
		return true
	}
	if port[0] != ':' || len(port) > 6 {
		return false
	}
	for _, c := range port[1:] {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}
