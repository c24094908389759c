package nethttp

import (
	"io"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// requestBody is the client's body on its way to an endpoint. Transports read it in goroutines of their own and close
// it when they are through with it, which must not end it for the next attempt as long as nothing was read.
type requestBody struct {
	r       *http.Request
	w       *http.ResponseController
	trailer http.Header // what the transport sends after the body; filled in at the body's end
	count   atomic.Int64
	begun   atomic.Bool  // somebody has begun to read
	ended   atomic.Bool  // read to its end
	closed  atomic.Bool  // by the transport, while it was read
	failed  atomic.Value // error: the client's, not the endpoint's

	mu       sync.Mutex
	released bool // the handler is done, and the connection not ours any more; guarded by mu
}

// lingerTimeout is how long the rest of a request is read after its answer: a client that still sends gets a moment to
// read it, and one that doesn't go on would hold the connection for ever.
const lingerTimeout = 5 * time.Second

func newRequestBody(w http.ResponseWriter, r *http.Request) *requestBody {
	b := &requestBody{r: r, w: http.NewResponseController(w)}
	if !b.none() {
		b.trailer = make(http.Header, len(r.Trailer))
		for name := range r.Trailer { // as announced
			b.trailer[name] = nil
		}
	}
	return b
}

// none says that the request has no body.
func (b *requestBody) none() bool {
	return b.r.Body == nil || b.r.Body == http.NoBody || b.r.ContentLength == 0
}

// finished says that nothing of the request is left to read.
func (b *requestBody) finished() bool { return b.none() || b.ended.Load() || b.failed.Load() != nil }

func (b *requestBody) Read(p []byte) (int, error) {
	b.begun.Store(true)
	n, err := b.r.Body.Read(p)
	b.count.Add(int64(n))
	switch {
	case err == io.EOF:
		if !b.ended.Swap(true) {
			maps.Copy(b.trailer, b.r.Trailer)
		}
	case err != nil && !b.closed.Load():
		b.failed.CompareAndSwap(nil, errBox{err})
	}
	return n, err
}

// Close ends a Read that waits for the client.
func (b *requestBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.released || !b.begun.Load() || b.finished() {
		return nil
	}
	b.closed.Store(true)
	if b.r.ProtoMajor > 1 {
		return b.r.Body.Close() //nolint:wrapcheck // never fails
	}
	b.linger()
	return nil
}

// release is called when the handler is done with the request.
func (b *requestBody) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.released = true
	if b.r.ProtoMajor == 1 && !b.finished() {
		b.linger()
	}
}

func (b *requestBody) linger() {
	_ = b.w.SetReadDeadline(time.Now().Add(lingerTimeout)) // fails on a connection that is gone
}

// errBox gives all errors one type, as atomic.Value wants.
type errBox struct{ error }
