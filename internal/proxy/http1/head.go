package http1

import (
	"bytes"
	"net/textproto"
	"unsafe"

	"github.com/tulle-mesh/tulle/internal/proxy/policy"
)

// Error is a message that is read no further, and how that is told: as an answer to a request, as a bad gateway for a
// response.
type Error struct {
	Status int
	Text   string
}

func (e *Error) Error() string { return e.Text }

// What is wrong with a head, whichever message it belongs to.
var (
	errLineEnd     = &Error{400, "a line does not end with CR LF"}
	errField       = &Error{400, "not a field line"}
	errFieldName   = &Error{400, "a field's name is empty, or has characters that names don't have"}
	errFieldValue  = &Error{400, "a field's value has control characters"}
	errHeadTooLong = &Error{431, "the head is too long"}
	errFields      = &Error{431, "there are too many fields"}
	errLength      = &Error{400, "Content-Length is no number"}
	errLengths     = &Error{400, "two Content-Lengths differ"}
	errCoding      = &Error{400, "the last transfer coding is not chunked"}
	errOtherCoding = &Error{501, "a transfer coding other than chunked"}
	errTwoLengths  = &Error{400, "Content-Length with Transfer-Encoding"}
	errOldCoding   = &Error{400, "Transfer-Encoding in HTTP/1.0"}
)

// Limits bound what is read of a head.
type Limits struct {
	Line   int // bytes of a request's first line
	Head   int // bytes in all
	Fields int
}

// kind tells the fields that the proxy itself reads from all others.
type kind uint8

const (
	other kind = iota
	host
	contentLength
	transferEncoding
	connection
	hopByHop // concerns one connection only, and says nothing that is read here
	te
	trailer
	upgrade
	expect
	forwardedFor
	forwardedProto
	forwardedHost
	forwarded
	meshOwn // the mesh's to set
)

// kindOf knows the fields by length first: most names have no other candidate.
func kindOf(name []byte) kind {
	if policy.IsOwn(view(name)) {
		return meshOwn
	}
	switch len(name) {
	case 2:
		return known(name, "te", te)
	case 4:
		return known(name, "host", host)
	case 6:
		return known(name, "expect", expect)
	case 7:
		return known(name, "upgrade", upgrade) | known(name, "trailer", trailer)
	case 9:
		return known(name, "forwarded", forwarded)
	case 10:
		return known(name, "connection", connection) | known(name, "keep-alive", hopByHop)
	case 14:
		return known(name, "content-length", contentLength) | known(name, "http2-settings", hopByHop)
	case 15:
		return known(name, "x-forwarded-for", forwardedFor)
	case 16:
		return known(name, "x-forwarded-host", forwardedHost) | known(name, "proxy-connection", hopByHop)
	case 17:
		return known(name, "transfer-encoding", transferEncoding) | known(name, "x-forwarded-proto", forwardedProto)
	case 18:
		return known(name, "proxy-authenticate", hopByHop)
	case 19:
		return known(name, "proxy-authorization", hopByHop)
	}
	return other
}

func known(name []byte, want string, k kind) kind {
	if is(name, want) {
		return k
	}
	return other
}

// field is one field line; the numbers are offsets into the head.
type field struct {
	line, nameEnd   int32
	value, valueEnd int32
	end             int32 // behind the line's CR LF
	kind            kind
	dropped         bool // by a Connection field that names it
}

// head is the fields of a message, in place: what it returns is part of the buffer that was parsed.
type head struct {
	b      []byte
	fields []field
}

func (h *head) name(f *field) []byte  { return h.b[f.line:f.nameEnd] }
func (h *head) value(f *field) []byte { return h.b[f.value:f.valueEnd] }

// parse reads field lines from pos to the empty line behind them, and returns where that ends; 0 if b ends first.
func (h *head) parse(b []byte, pos int, l Limits) (int, error) {
	h.b, h.fields = b, h.fields[:0]
	for pos < len(b) && pos <= l.Head {
		if b[pos] == '\r' {
			if pos+1 == len(b) {
				return 0, nil
			}
			if b[pos+1] != '\n' {
				return 0, errLineEnd
			}
			if pos+2 > l.Head {
				return 0, errHeadTooLong
			}
			return pos + 2, nil
		}
		f, err := parseField(b, pos)
		if err != nil {
			return 0, err
		}
		if f.end == 0 {
			break
		}
		if len(h.fields) >= l.Fields {
			return 0, errFields
		}
		h.fields = append(h.fields, f)
		pos = int(f.end)
	}
	if len(b) > l.Head {
		return 0, errHeadTooLong
	}
	return 0, nil
}

// parseField reads one field line (RFC 9112, 5); its end is 0 if b ends first.
func parseField(b []byte, pos int) (field, error) {
	i := pos
	for i < len(b) && tokens[b[i]] {
		i++
	}
	if i == len(b) {
		return field{}, nil
	}
	if b[i] != ':' || i == pos {
		if b[i] == ':' || b[i] == ' ' || b[i] == '\t' {
			return field{}, errFieldName // space before a colon, or obs-fold
		}
		return field{}, errField
	}
	colon := i
	n := bytes.IndexByte(b[colon+1:], '\n')
	if n < 0 {
		return field{}, nil
	}
	end := colon + 1 + n
	if b[end-1] != '\r' { // there is at least the colon
		return field{}, errLineEnd
	}
	v, w := colon+1, end-1
	for v < w && (b[v] == ' ' || b[v] == '\t') {
		v++
	}
	for v < w && (b[w-1] == ' ' || b[w-1] == '\t') {
		w--
	}
	if !clean(b[v:w]) {
		return field{}, errFieldValue
	}
	return field{
		line: int32(pos), nameEnd: int32(colon), value: int32(v), valueEnd: int32(w), end: int32(end + 1), //nolint:gosec // heads are far shorter
		kind: kindOf(b[pos:colon]),
	}, nil
}

// headEnd looks for the end of a head that did not end in the first seen bytes of b: 0 if it is still to come. A head
// that arrives byte by byte is so gone through twice, and not once for every byte.
func headEnd(b []byte, seen int) (int, error) {
	for i := max(seen, 0); ; {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			return 0, nil
		}
		i += n
		if i == 0 || b[i-1] != '\r' {
			return 0, errLineEnd
		}
		if i >= 3 && b[i-2] == '\n' {
			return i + 1, nil
		}
		i++
	}
}

// drop marks the fields that a Connection field names (RFC 9110, 7.6.1), but never one that says where a message ends
// or whom it is for.
func (h *head) drop(name []byte) {
	for i := range h.fields {
		f := &h.fields[i]
		if f.kind != host && f.kind != contentLength && f.kind != transferEncoding && fold(h.name(f), name) {
			f.dropped = true
		}
	}
}

// Values returns the values of the fields with a name, in their order. They are valid as long as the head is.
func (h *head) Values(name string) []string {
	var out []string
	for i := range h.fields {
		if f := &h.fields[i]; fold(h.name(f), name) {
			out = append(out, view(h.value(f)))
		}
	}
	return out
}

// each calls f for every field that may be passed on.
func (h *head) each(yield func(name, value []byte)) {
	for i := range h.fields {
		if f := &h.fields[i]; !f.dropped && f.kind != hopByHop && f.kind != connection {
			yield(h.name(f), h.value(f))
		}
	}
}

// header copies the fields that may be passed on.
func (h *head) header() map[string][]string {
	out := map[string][]string{}
	h.each(func(name, value []byte) {
		key := textproto.CanonicalMIMEHeaderKey(string(name))
		out[key] = append(out[key], string(value))
	})
	return out
}

// view makes a string of b without copying it: it changes when b does.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
