package http1

import "math"

// framing is how the end of a body is found (RFC 9112, 6.3).
type framing uint8

const (
	none framing = iota
	length
	chunked
	untilClose
)

// body is what a head says about the body behind it.
type body struct {
	framing framing
	length  int64 // for length, more than 0
}

// bodyFields are the fields that say where a body ends, while they are being read.
type bodyFields struct {
	length         int64
	hasLength, cod bool
}

// addLength takes a Content-Length. The same one may be repeated, as its meaning is still one.
func (b *bodyFields) addLength(value []byte) error {
	n, ok := decimal(value)
	if !ok {
		return errLength
	}
	if b.hasLength && n != b.length {
		return errLengths
	}
	b.length, b.hasLength = n, true
	return nil
}

// addCoding takes a Transfer-Encoding: the only coding is chunked, and only once.
func (b *bodyFields) addCoding(value []byte) error {
	if b.cod {
		return errCoding
	}
	b.cod = true
	if is(value, "chunked") {
		return nil
	}
	var last []byte
	n := 0
	for rest := value; rest != nil; n++ {
		last, rest = element(rest)
		if is(last, "chunked") && rest != nil {
			return errCoding
		}
	}
	if n > 1 && is(last, "chunked") {
		return errOtherCoding
	}
	return errCoding
}

func (b *bodyFields) check(minor int) error {
	switch {
	case b.cod && minor == 0:
		return errOldCoding
	case b.cod && b.hasLength:
		return errTwoLengths
	}
	return nil
}

// request is the body of a request: without a word there is none.
func (b *bodyFields) request() body {
	switch {
	case b.cod:
		return body{framing: chunked}
	case b.length > 0:
		return body{framing: length, length: b.length}
	}
	return body{}
}

// response is the body of a response that can have one: without a word it ends with the connection.
func (b *bodyFields) response() body {
	if !b.cod && !b.hasLength {
		return body{framing: untilClose}
	}
	return b.request()
}

// decimal reads digits and nothing else.
func decimal(b []byte) (int64, bool) {
	var n int64
	for _, c := range b {
		d := int64(c) - '0'
		if d < 0 || d > 9 || n > (math.MaxInt64-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, len(b) > 0
}
