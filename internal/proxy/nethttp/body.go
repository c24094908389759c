package nethttp

import (
	"io"
	"maps"
	"net/http"
	"sync/atomic"
)

// requestBody is the client's body on its way to an endpoint. Transports read it in goroutines of their own and close
// it when an attempt failed, which must not end it for the next: net/http closes the real one after the handler.
type requestBody struct {
	r       *http.Request
	trailer http.Header // what the transport sends after the body; filled in at the body's end
	count   atomic.Int64
	begun   atomic.Bool  // somebody has begun to read
	ended   atomic.Bool  // read to its end
	failed  atomic.Value // error: the client's, not the endpoint's
}

func newRequestBody(r *http.Request) *requestBody {
	b := &requestBody{r: r}
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
	case err == io.EOF: //nolint:errorlint // readers return it unwrapped
		if !b.ended.Swap(true) {
			maps.Copy(b.trailer, b.r.Trailer)
		}
	case err != nil:
		b.failed.CompareAndSwap(nil, errBox{err})
	}
	return n, err
}

func (b *requestBody) Close() error { return nil }

// errBox gives all errors one type, as atomic.Value wants.
type errBox struct{ error }
