package http1

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// fallback lets others forward the request, by net/http's types.
func (c *conn) fallback() {
	ctx, cancel := context.WithCancel(c.server.ctx)
	defer cancel()
	c.mu.Lock()
	c.cancel = cancel
	c.mu.Unlock()
	// Transports may look at a request after they gave it up, and the buffer is another request's by then.
	c.x.SetTarget(strings.Clone(c.x.Target))
	w := &writer{c: c, header: http.Header{}}
	b := &requestBody{w: w}
	defer c.endFallback(w, b)
	c.server.config.Fallback(w, c.netRequest(ctx, b), &c.x)
	w.finish()
}

// netRequest is the request as net/http knows it.
func (c *conn) netRequest(ctx context.Context, b *requestBody) *http.Request {
	r := &c.request
	out := &http.Request{
		Method: c.x.Method, Proto: c.x.Protocol, ProtoMajor: 1, ProtoMinor: r.minor,
		Header: r.header(), Host: string(r.host), RequestURI: string(r.raw), RemoteAddr: c.tcp.RemoteAddr().String(),
		URL: &url.URL{Path: c.x.Path}, Body: http.NoBody,
	}
	for _, k := range []string{"Host", "Content-Length", "Transfer-Encoding", "Upgrade"} {
		delete(out.Header, k)
	}
	if u, err := url.ParseRequestURI(c.x.Target); err == nil {
		out.URL = u
	}
	out.Trailer = http.Header{}
	for _, list := range out.Header["Trailer"] {
		for name := range strings.SplitSeq(list, ",") {
			if name = http.CanonicalHeaderKey(strings.TrimSpace(name)); name != "" {
				out.Trailer[name] = nil
			}
		}
	}
	switch r.body.framing {
	case length:
		out.ContentLength, out.Body = r.body.length, b
	case chunked:
		out.ContentLength, out.Body = -1, b
	case none, untilClose:
	}
	b.trailer = out.Trailer
	return out.WithContext(ctx)
}

// endFallback takes the connection back: whoever still reads the body stops.
func (c *conn) endFallback(w *writer, b *requestBody) {
	c.closing = c.closing || w.cut.Load()
	if !c.reqBody.ended.Load() {
		c.closing, c.linger = true, true
		_ = c.tcp.SetReadDeadline(past) // fails on a connection that is closed
	}
	b.end()
	if !c.closing {
		_ = c.tcp.SetReadDeadline(time.Time{}) // as above
	}
	c.mu.Lock()
	c.cancel = nil
	c.mu.Unlock()
	p := recover()
	w.free()
	c.toClient.sent = 0 // counted by who forwarded
	switch p {
	case nil:
	case http.ErrAbortHandler:
		c.closing, c.linger = true, false
		if c.toClient.framed == untilClose {
			spoil(c.tcp) // an orderly end would make it whole
		}
	default:
		panic(p)
	}
}

// requestBody is the request's body for net/http. Transports read it in goroutines of their own.
type requestBody struct {
	w       *writer
	trailer http.Header

	mu   sync.Mutex // held while the connection is read
	data []byte
	over bool
}

var errBodyOver = errors.New("the exchange is over")

func (b *requestBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return 0, errBodyOver
	}
	b.w.goOn()
	s := &b.w.c.reqBody
	for len(b.data) == 0 {
		var err error
		if b.data, err = s.ready(); err != nil {
			return 0, err
		}
		if len(b.data) > 0 {
			break
		}
		if s.ended.Load() {
			maps.Copy(b.trailer, s.chunks.trailers.header())
			return 0, io.EOF
		}
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, b.data)
	b.data = b.data[n:]
	return n, nil
}

// Close is for net/http; what is left of the body is dealt with at the end of the exchange.
func (*requestBody) Close() error { return nil }

func (b *requestBody) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
}

// writer is an http.ResponseWriter on a client's connection. It may be used by one goroutine at a time, but for goOn.
type writer struct {
	c      *conn
	header http.Header
	cut    atomic.Bool // writing has been given a time limit

	mu      sync.Mutex // of what follows, and writes to the connection
	began   bool
	waits   bool // the client was told to send its body
	noBody  bool
	trailer []string // announced ones
}

func (w *writer) Header() http.Header { return w.header }

// goOn tells a client that waits for it to send the body.
func (w *writer) goOn() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.began && !w.waits && w.c.request.expects {
		_, _ = io.WriteString(w.c.tcp, "HTTP/1.1 100 Continue\r\n\r\n") // a failure shows in the read that follows
	}
	w.waits = true
}

// WriteHeader sends an interim answer, or keeps the final one's head until there is something to send with it.
func (w *writer) WriteHeader(status int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.began {
		return
	}
	s := &w.c.toClient
	s.begin(w.c.tcp, w.c.out, largeBuffer)
	w.line(status)
	if status < 200 {
		s.buffer = append(s.buffer, "\r\n"...)
		_ = s.flush() // a client that is gone is found when the answer is sent
		s.free()
		return
	}
	w.began, w.c.begun = true, true
	w.end(status)
}

// line adds the status line and the fields.
func (w *writer) line(status int) {
	s := &w.c.toClient
	s.buffer = append(s.buffer, "HTTP/1.1 "...)
	s.buffer = strconv.AppendInt(s.buffer, int64(status), 10)
	s.buffer = append(s.buffer, ' ')
	s.buffer = append(s.buffer, http.StatusText(status)...)
	s.buffer = append(s.buffer, "\r\n"...)
	for name, values := range w.header {
		if strings.HasPrefix(name, http.TrailerPrefix) || name == "Connection" || name == "Transfer-Encoding" {
			continue
		}
		for _, v := range values {
			s.buffer = appendField(s.buffer, name, v)
		}
	}
	w.trailer = w.header["Trailer"]
}

// end decides how the body ends.
func (w *writer) end(status int) {
	c, s := w.c, &w.c.toClient
	w.noBody = c.x.Method == http.MethodHead || status == 204 || status == 304
	s.framed = length
	if w.header.Get("Content-Length") == "" && !w.noBody {
		s.framed = chunked
		if c.request.minor == 0 {
			s.framed = untilClose
		} else {
			s.buffer = append(s.buffer, chunkedField...)
		}
	}
	if c.closing = c.closing || !c.reqBody.ended.Load(); c.closing {
		s.buffer = append(s.buffer, "Connection: close\r\n"...)
	}
	s.buffer = append(s.buffer, "\r\n"...)
}

func (w *writer) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.noBody || len(p) == 0 {
		return len(p), nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.c.toClient.add(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// FlushError sends what was written.
func (w *writer) FlushError() error {
	w.WriteHeader(http.StatusOK)
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.c.toClient.flush()
}

// finish ends the answer.
func (w *writer) finish() {
	w.WriteHeader(http.StatusOK)
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &w.c.toClient
	if s.framed == chunked {
		s.buffer = append(s.buffer, "0\r\n"...)
		for _, name := range w.trailer {
			for _, v := range w.header[name] {
				s.buffer = appendField(s.buffer, name, v)
			}
		}
		for name, values := range w.header {
			if name, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
				for _, v := range values {
					s.buffer = appendField(s.buffer, name, v)
				}
			}
		}
		s.buffer = append(s.buffer, "\r\n"...)
	}
	if s.flush() != nil {
		w.c.closing = true
	}
}

func (w *writer) free() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.c.toClient.free()
}

// EnableFullDuplex is for http.ResponseController: this writer always is.
func (*writer) EnableFullDuplex() error { return nil }

// SetWriteDeadline is for http.ResponseController. The connection is of no use afterwards.
func (w *writer) SetWriteDeadline(t time.Time) error {
	w.cut.Store(true)
	return w.c.tcp.SetWriteDeadline(t)
}

// SetReadDeadline is for http.ResponseController.
func (w *writer) SetReadDeadline(t time.Time) error { return w.c.tcp.SetReadDeadline(t) }
