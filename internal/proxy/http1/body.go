package http1

import (
	"errors"
	"io"
	"net"
	"strconv"
	"sync/atomic"
)

// source reads the body of a message from a connection.
type source struct {
	conn   io.Reader
	buffer []byte // from r to w is what was read ahead
	r, w   int
	own    bool // the buffer is not part of somebody else's
	body   body
	left   int64 // of a body with a length
	chunks chunks
	ended  atomic.Bool // all of the body was read
}

// begin makes s the body that follows what b begins with.
func (s *source) begin(conn io.Reader, b body, buffer []byte, r int) {
	s.conn, s.buffer, s.r, s.w, s.own = conn, buffer[:cap(buffer)], r, len(buffer), false
	s.body, s.left = b, b.length
	s.chunks = chunks{trailers: head{fields: s.chunks.trailers.fields}}
	s.ended.Store(b.framing == none)
}

// free gives back the buffer, if it is the source's own.
func (s *source) free() {
	if s.own {
		freeBuffer(s.buffer)
	}
	s.buffer, s.own, s.r, s.w = nil, false, 0, 0
}

// rest is what was read beyond the body.
func (s *source) rest() []byte { return s.buffer[s.r:s.w] }

// ready returns the next piece of the body that was read ahead, in place; without one there is more to read, unless the
// body has ended.
func (s *source) ready() ([]byte, error) {
	switch s.body.framing {
	case chunked:
		data, n, err := s.chunks.next(s.buffer[s.r:s.w])
		s.r += n
		if s.chunks.state == chunkDone {
			s.ended.Store(true)
		}
		return data, err
	case length:
		n := min(int64(s.w-s.r), s.left)
		data := s.buffer[s.r : s.r+int(n)]
		s.r += int(n)
		s.took(n)
		return data, nil
	case untilClose:
		data := s.buffer[s.r:s.w]
		s.r = s.w
		return data, nil
	case none:
	}
	return nil, nil
}

func (s *source) took(n int64) {
	if s.left -= n; s.left == 0 {
		s.ended.Store(true)
	}
}

// fill waits for more of the body. Nothing that belongs to the next message is read unless it can't be told apart.
func (s *source) fill() error {
	s.makeRoom()
	room := s.buffer[s.w:]
	if s.body.framing == length && int64(len(room)) > s.left {
		room = room[:s.left]
	}
	if len(room) == 0 {
		return errChunkLine // it does not fit into a buffer that is far larger than all limits
	}
	n, err := s.conn.Read(room)
	s.w += n
	switch {
	case n > 0:
		return nil
	case err == io.EOF && s.body.framing == untilClose:
		s.ended.Store(true)
		return nil
	case err == io.EOF:
		return io.ErrUnexpectedEOF
	}
	return err //nolint:wrapcheck // the caller tells whose connection it is
}

func (s *source) makeRoom() {
	switch {
	case !s.own:
		b := takeBuffer(largeBuffer)
		s.w = copy(b, s.buffer[s.r:s.w])
		s.buffer, s.r, s.own = b, 0, true
	case s.r > 0:
		s.w = copy(s.buffer, s.buffer[s.r:s.w])
		s.r = 0
	}
}

// sink writes a message to a connection.
type sink struct {
	conn   net.Conn
	out    io.Writer // to conn
	buffer []byte    // what is still to be written
	framed framing
	sent   int64 // bytes of the body
	wrote  bool  // something was written
}

// begin makes s a message to conn, which is written to by out. It is free until something is added.
func (s *sink) begin(conn net.Conn, out io.Writer, size int) {
	*s = sink{conn: conn, out: out, buffer: takeBuffer(size)[:0]}
}

func (s *sink) free() {
	freeBuffer(s.buffer)
	s.buffer, s.conn, s.out = nil, nil, nil
}

// add adds a part of the body. Long parts are written from where they are.
func (s *sink) add(p []byte) error {
	s.sent += int64(len(p))
	if s.framed == chunked {
		s.buffer = strconv.AppendUint(s.buffer, uint64(len(p)), 16)
		s.buffer = append(s.buffer, "\r\n"...)
	}
	if len(s.buffer)+len(p)+2 <= cap(s.buffer) {
		s.buffer = append(s.buffer, p...)
	} else {
		if err := s.flush(); err != nil {
			return err
		}
		if s.framed != chunked {
			return s.write(p)
		}
		if err := s.write(p); err != nil {
			return err
		}
	}
	if s.framed == chunked {
		s.buffer = append(s.buffer, "\r\n"...)
	}
	return nil
}

// end adds what ends a chunked body.
func (s *sink) end(trailers *head) {
	if s.framed == chunked {
		s.buffer = append(s.buffer, "0\r\n"...)
		s.buffer = trailers.appendKept(s.buffer, 1<<meshOwn)
		s.buffer = append(s.buffer, "\r\n"...)
	}
}

// flush writes what was added.
func (s *sink) flush() error {
	if len(s.buffer) == 0 {
		return nil
	}
	err := s.write(s.buffer)
	s.buffer = s.buffer[:0]
	return err
}

func (s *sink) write(p []byte) error {
	n, err := s.out.Write(p)
	s.wrote = s.wrote || n > 0
	return err //nolint:wrapcheck // the caller tells whose connection it is
}

// sinkError is a failure to write, as opposed to one to read.
type sinkError struct{ error }

func (e sinkError) Unwrap() error { return e.error }

// addReady adds what was read ahead of the body, and its end if that was. Nothing is written unless the sink is full.
func (s *sink) addReady(from *source) error {
	for {
		data, err := from.ready()
		if err != nil {
			return err
		}
		if len(data) > 0 {
			if err := s.add(data); err != nil {
				return sinkError{err}
			}
			continue
		}
		if from.ended.Load() {
			s.end(&from.chunks.trailers)
		}
		return nil
	}
}

// pass sends a body on as it comes: what was read is written before more is waited for. Errors of the sink are
// sinkErrors. all says that addReady has been called and saw the end.
func (s *sink) pass(from *source) error {
	for {
		ended := from.ended.Load()
		if err := s.flush(); err != nil {
			return sinkError{err}
		}
		if ended {
			return nil
		}
		if done, err := s.splice(from); done {
			return err
		}
		if err := from.fill(); err != nil {
			return err
		}
		if err := s.addReady(from); err != nil {
			// What came before it is whole, and is passed on.
			return errors.Join(err, s.flush())
		}
	}
}

// spliceFrom is the length of a rest from which on the kernel moves it between the sockets.
const spliceFrom = 16 << 10

// splice lets the kernel move the rest of a body between two plain connections, if that is worth it.
func (s *sink) splice(from *source) (done bool, err error) {
	if from.body.framing != length || from.left < spliceFrom || s.framed == chunked || from.r < from.w {
		return false, nil
	}
	to, ok := s.conn.(*net.TCPConn)
	src, ok2 := from.conn.(*net.TCPConn)
	if !ok || !ok2 {
		return false, nil
	}
	// Nothing is in the buffers, and a client may be slow.
	from.free()
	freeBuffer(s.buffer)
	s.buffer = nil
	n, err := to.ReadFrom(&io.LimitedReader{R: src, N: from.left})
	s.sent += n
	s.wrote = s.wrote || n > 0
	from.took(n)
	switch {
	case err != nil && writeFailed(err):
		return true, sinkError{err}
	case err != nil:
		return true, err
	case from.left > 0:
		return true, io.ErrUnexpectedEOF
	}
	return true, nil
}
