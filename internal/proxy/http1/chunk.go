package http1

import (
	"bytes"
	"math"
)

// What is wrong with a chunked body.
var (
	errChunkSize   = &Error{400, "not a chunk's size"}
	errChunkLine   = &Error{400, "a chunk's extensions are too long"}
	errChunkEnd    = &Error{400, "a chunk does not end where its size says"}
	errChunkExcess = &Error{400, "chunks with hardly any data in them"}
	errTrailer     = &Error{400, "a field that can't be a trailer"}
)

const (
	maxChunkLine = 1 << 10 // a chunk's size with its extensions
	maxExcess    = 16 << 10
)

// trailerLimits bound the fields behind a chunked body.
var trailerLimits = Limits{Head: 8 << 10, Fields: 64}

type chunkState uint8

const (
	chunkSize chunkState = iota
	chunkData
	chunkEnd
	chunkTrailers
	chunkDone
)

// chunks takes the chunked coding (RFC 9112, 7.1) off a body.
type chunks struct {
	state    chunkState
	left     int64 // of this chunk's data
	excess   int64 // bytes that were no data, beyond what is usual
	trailers head
}

// next returns the next piece of data that src holds, in place, and how many bytes of src are done with. Without data
// there is more to read, unless the state is chunkDone: the trailers are part of src then.
func (c *chunks) next(src []byte) (data []byte, used int, err error) {
	for {
		n := 0
		switch c.state {
		case chunkSize:
			n, err = c.size(src[used:])
		case chunkData:
			n = int(min(c.left, int64(len(src)-used)))
			if n == 0 {
				return nil, used, nil
			}
			if c.left -= int64(n); c.left == 0 {
				c.state = chunkEnd
			}
			return src[used : used+n], used + n, nil
		case chunkEnd:
			n, err = c.end(src[used:])
		case chunkTrailers:
			n, err = c.last(src[used:])
		case chunkDone:
		}
		used += n
		if err != nil || n == 0 {
			return nil, used, err
		}
	}
}

// size reads the line before a chunk. Whitespace is refused around the size, where readers differ.
func (c *chunks) size(src []byte) (int, error) {
	n := bytes.IndexByte(src[:min(len(src), maxChunkLine)], '\n')
	if n < 0 {
		if len(src) >= maxChunkLine {
			return 0, errChunkLine
		}
		return 0, nil
	}
	if n == 0 || src[n-1] != '\r' {
		return 0, errLineEnd
	}
	line := src[:n-1]
	digits := 0
	var size uint64
	for digits < len(line) && hex[line[digits]] {
		size = size<<4 | uint64(unhex(line[digits]))
		digits++
	}
	if digits == 0 || digits > 16 || size > math.MaxInt64 {
		return 0, errChunkSize
	}
	if extensions := line[digits:]; len(extensions) > 0 && (extensions[0] != ';' || !clean(extensions)) {
		return 0, errChunkSize
	}
	c.excess += int64(len(line)) + 4 - 16
	if size < maxExcess {
		c.excess -= 2 * int64(size)
	} else {
		c.excess = 0
	}
	if c.excess = max(c.excess, 0); c.excess > maxExcess {
		return 0, errChunkExcess
	}
	c.left, c.state = int64(size), chunkData
	if size == 0 {
		c.state = chunkTrailers
	}
	return n + 1, nil
}

func (c *chunks) end(src []byte) (int, error) {
	if len(src) > 0 && src[0] != '\r' || len(src) > 1 && src[1] != '\n' {
		return 0, errChunkEnd
	}
	if len(src) < 2 {
		return 0, nil
	}
	c.state = chunkSize
	return 2, nil
}

// last reads the trailers. Fields that say how a message is read, or which way it goes, come too late there.
func (c *chunks) last(src []byte) (int, error) {
	n, err := c.trailers.parse(src, 0, trailerLimits)
	if err != nil || n == 0 {
		return 0, err
	}
	for i := range c.trailers.fields {
		switch c.trailers.fields[i].kind {
		case other, forwardedFor, forwardedProto, forwardedHost:
		default:
			return 0, errTrailer
		}
	}
	c.state = chunkDone
	return n, nil
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	default:
		return c - 'a' + 10
	}
}
