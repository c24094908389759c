package http2

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/policy"
	"github.com/tulle-mesh/tulle/internal/proxy/share"
)

// requestBody is the client's body on its way to an endpoint.
type requestBody struct {
	r       *http.Request
	w       *http.ResponseController
	trailer http.Header // what the transport sends after the body; filled in at the body's end
	count   atomic.Int64
	ended   atomic.Bool               // read to its end
	end     atomic.Pointer[time.Time] // when it was
	failed  atomic.Value              // error: the client's, not the endpoint's
	up      backlog                   // what the client has sent

	one sync.Mutex // held by who reads r.Body

	mu       sync.Mutex
	released bool // the handler is done, and the connection not ours any more; guarded by mu
	cut      bool // a Read was interrupted; guarded by mu
	keeping  bool // what is read goes to kept, too; guarded by mu
	kept     []byte
	account  *share.Account // that kept counts for
}

// maxKept is how long a body may be that is kept to be sent again.
const maxKept = 16 << 10

// lingerTimeout is how long the rest of a request is read after its answer: a client that still sends gets a moment to
// read it, and one that doesn't go on would hold the connection for ever.
const lingerTimeout = 5 * time.Second

func newRequestBody(w http.ResponseWriter, r *http.Request, a *share.Account) *requestBody {
	b := &requestBody{r: r, w: http.NewResponseController(w), account: a}
	if !b.none() {
		b.trailer = make(http.Header, len(r.Trailer))
		for name := range r.Trailer { // as announced
			if !policy.IsOwn(name) {
				b.trailer[name] = nil
			}
		}
	}
	return b
}

// none says that the request has no body.
func (b *requestBody) none() bool {
	return b.r.Body == nil || b.r.Body == http.NoBody || b.r.ContentLength == 0
}

// keep makes the body one that can be sent again if nothing of it has reached the endpoint, unless it is long.
func (b *requestBody) keep() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keeping = b.keeping || b.count.Load() == 0
}

// took notes what was read. For want of room it is not kept.
func (b *requestBody) took(p []byte) {
	b.count.Add(int64(len(p)))
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.keeping {
		return
	}
	if b.released || len(b.kept)+len(p) > maxKept || !b.account.Buffer(int64(len(p))) {
		b.drop()
		return
	}
	b.kept = append(b.kept, p...)
}

// drop ends that the body is kept; mu is held.
func (b *requestBody) drop() {
	b.account.Release(int64(len(b.kept)))
	b.keeping, b.kept = false, nil
}

// again returns what is kept behind the first n bytes.
func (b *requestBody) again(n int) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.kept[min(n, len(b.kept)):]
}

// replayable says that all that was read of the body is kept, and the rest can be read.
func (b *requestBody) replayable() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.keeping && !b.cut && b.failed.Load() == nil
}

// finished says that nothing of the request is left to read.
func (b *requestBody) finished() bool { return b.none() || b.ended.Load() || b.failed.Load() != nil }

// bodyReader is what one attempt sees of the body. Transports read it in goroutines of their own, and close it when
// they are through with it, which they are before anybody knows whether there is another attempt: a Read that waits for the
// client is for that one then, and ends otherwise.
type bodyReader struct {
	*requestBody
	mu      sync.Mutex
	reading bool // guarded by mu, as all up to sent
	closed  bool
	cutting bool // a Read is to be interrupted, if this was the last attempt
	last    bool
	sent    int // of the body; belongs to who reads
}

var (
	errBodyClosed = errors.New("request body was closed")
	errNotKept    = errors.New("request body is too long to be sent again")
)

// leave makes way for the next attempt. A Read that waits goes on: what it gets is kept for that one.
func (b *bodyReader) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
}

// finish says that there is no next attempt, as far as it is about the body.
func (b *bodyReader) finish() {
	b.mu.Lock()
	b.last = true
	cut := b.cutting && b.reading
	b.mu.Unlock()
	if cut {
		b.interrupt()
	}
}

// begin says whether the body may be read.
func (b *bodyReader) begin() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading = !b.closed
	return b.reading
}

func (b *bodyReader) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading = false
}

// close notes that the transport is through, and says whether there is a Read that waits and is to end.
func (b *bodyReader) close() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.closed, b.cutting = true, b.reading
	return b.cutting && b.last
}

func (b *bodyReader) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

func (b *bodyReader) Read(p []byte) (int, error) {
	if !b.begin() {
		return 0, errBodyClosed
	}
	defer b.stop()
	b.one.Lock()
	defer b.one.Unlock()
	if n := copy(p, b.again(b.sent)); n > 0 {
		b.sent += n
		return n, nil
	}
	if int64(b.sent) < b.count.Load() {
		return 0, errNotKept
	}
	b.up.read()
	n, err := b.r.Body.Read(p)
	b.up.got(n, n == len(p))
	b.sent += n
	b.took(p[:n])
	if err != nil {
		b.up.end()
	}
	switch {
	case err == io.EOF:
		if !b.ended.Swap(true) {
			now := time.Now()
			b.end.Store(&now)
			maps.Copy(b.trailer, b.r.Trailer)
			maps.DeleteFunc(b.trailer, func(name string, _ []string) bool { return policy.IsOwn(name) })
		}
	case err != nil && !b.isClosed():
		b.failed.CompareAndSwap(nil, errBox{err})
	}
	return n, err
}

// Close ends a Read that waits for the client once there is no other attempt.
func (b *bodyReader) Close() error {
	if b.close() {
		b.interrupt()
	}
	return nil
}

// interrupt ends a Read that waits: at once, or, on HTTP/1, soon.
func (b *requestBody) interrupt() {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.released || b.finished():
	case b.r.ProtoMajor > 1:
		b.cut = true
		b.r.Body.Close()
	default:
		b.cut = true
		b.linger()
	}
}

// release is called when the handler is done with the request.
func (b *requestBody) release() {
	b.up.end()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.released = true
	b.drop()
	if b.r.ProtoMajor == 1 && !b.finished() {
		b.linger()
	}
}

// discard ends that more is buffered of a body that nobody reads any more.
func (b *requestBody) discard() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.r.ProtoMajor > 1 && !b.finished() {
		b.cut = true
		b.r.Body.Close()
	}
}

func (b *requestBody) linger() {
	_ = b.w.SetReadDeadline(time.Now().Add(lingerTimeout)) // fails on a connection that is gone
}

// errBox gives all errors one type, as atomic.Value wants.
type errBox struct{ error }
