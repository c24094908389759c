package http2

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// deliver passes an endpoint's answer on to the client.
func (f *forwarding) deliver(resp *http.Response) {
	if resp.StatusCode == http.StatusSwitchingProtocols {
		f.refuse(refusal.UpgradeFailed) // nobody asked
		return
	}
	if resp.StatusCode < 200 {
		f.refuse(refusal.UpstreamFailed)
		return
	}
	if f.delivering.Store(true); f.overShare.Load() {
		f.body.discard()
		f.refuse(refusal.OverShare)
		return
	}
	h := f.w.Header()
	announced := f.responseHeader(h, resp)
	end := f.body.end.Load()
	if end != nil {
		f.Whole(*end)
	}
	if why := f.refusedBy(resp); why != "" {
		f.Refused(resp.StatusCode, why)
	} else {
		f.Answered(resp.StatusCode, end != nil || f.body.none())
	}
	f.begun = true
	f.w.WriteHeader(f.Status)
	if err := f.copyBody(resp); err != nil {
		f.breakOff(h, err)
		return
	}
	for name, values := range resp.Trailer {
		if !announced[name] {
			name = http.TrailerPrefix + name
		}
		h[name] = values
	}
}

// refusedBy is why the proxy of the endpoint's node answers in its place; empty if it doesn't.
func (f *forwarding) refusedBy(resp *http.Response) refusal.Reason {
	if !f.Far() {
		return ""
	}
	return refusal.Reason(resp.Header.Get(refusal.Header))
}

// responseHeader makes h what the endpoint sent, without additions, and returns the trailers that are announced in it.
func (f *forwarding) responseHeader(h http.Header, resp *http.Response) map[string]bool {
	removeHopByHop(resp.Header)
	maps.Copy(h, resp.Header)
	if f.Client.Binding.Tunnel != nil {
		delete(h, refusal.Header) // it would be taken for this proxy's word
	}
	for _, added := range []string{"Date", "Content-Type"} {
		if _, ok := h[added]; !ok {
			h[added] = nil // else net/http makes one up
		}
	}
	if len(resp.Trailer) == 0 {
		return nil
	}
	if f.r.ProtoMajor == 1 {
		delete(h, "Content-Length") // HTTP/1 has room for trailers only behind chunks
	}
	announced := map[string]bool{}
	for name := range resp.Trailer {
		announced[name] = true
		h["Trailer"] = append(h["Trailer"], name)
	}
	return announced
}

// brokenError is an answer that an endpoint began and did not end.
type brokenError struct{ err error }

func (e *brokenError) Error() string { return "read response: " + e.err.Error() }
func (e *brokenError) Unwrap() error { return e.err }

// breakOff ends an answer whose head is sent, so that the client can't take it for a whole one.
func (f *forwarding) breakOff(h http.Header, err error) {
	if f.overShare.Load() {
		f.Reason = refusal.OverShare
		panic(http.ErrAbortHandler)
	}
	var broken *brokenError
	if errors.As(err, &broken) && f.r.Context().Err() == nil {
		f.Reason = refusal.UpstreamFailed
		if errors.Is(context.Cause(f.out.Context()), errTimeout) || f.grpcLate() {
			f.Reason = refusal.Timeout
		}
		if isGRPC(f.r) {
			a := f.Reason.Answer()
			h[http.TrailerPrefix+"Grpc-Status"] = []string{strconv.Itoa(a.GRPC)}
			h[http.TrailerPrefix+"Grpc-Message"] = []string{"tulle: " + a.Text}
			return
		}
	}
	panic(http.ErrAbortHandler)
}

// A head whose body has a known length usually comes with it: they leave together unless the body takes longer.
const flushAfter = 2 * time.Millisecond

var buffers = sync.Pool{New: func() any { return new([copied]byte) }}

// copyBody streams the body: what was read is sent on before more is waited for.
func (f *forwarding) copyBody(resp *http.Response) error {
	if resp.ContentLength == 0 || f.r.Method == http.MethodHead {
		return nil // not even a flush: gRPC's trailers-only answers end with their head
	}
	rc := http.NewResponseController(f.w)
	head := newLateFlush(rc, resp.ContentLength < 0)
	defer head.settle()
	buffer := buffers.Get().(*[copied]byte)
	defer buffers.Put(buffer)
	f.watchAnswer(resp)
	defer f.down.end()
	for {
		f.down.read()
		n, err := resp.Body.Read(buffer[:])
		f.down.got(n, n == len(buffer))
		head.settle()
		if n > 0 {
			if _, err := f.w.Write(buffer[:n]); err != nil {
				return err //nolint:wrapcheck // the client is gone: nobody reads it
			}
			f.Out += int64(n)
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return &brokenError{err}
		case n > 0 && (resp.ContentLength < 0 || f.Out < resp.ContentLength):
			if err := rc.Flush(); err != nil {
				return err //nolint:wrapcheck // as above
			}
		}
	}
}

// watchAnswer counts what the endpoint sends before the client takes it.
func (f *forwarding) watchAnswer(resp *http.Response) {
	d := &f.down
	d.room, d.shed, d.length, d.own = f.Client.Share, f.shed, resp.ContentLength, copied
	if resp.ProtoMajor > 1 {
		d.window = upstream.StreamWindow
	}
	d.begin()
}

// lateFlush sends the head of a response at once, or after a moment if nothing else did.
type lateFlush struct {
	timer *time.Timer
	mu    sync.Mutex // held while the response writer is in use by the timer
	done  bool
}

func newLateFlush(rc *http.ResponseController, now bool) *lateFlush {
	l := &lateFlush{}
	if now {
		_ = rc.Flush() // writing to a client that is gone fails again
		l.done = true
		return l
	}
	l.timer = time.AfterFunc(flushAfter, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if !l.done {
			_ = rc.Flush()
		}
	})
	return l
}

// settle ends the timer's use of the response writer.
func (l *lateFlush) settle() {
	if l.timer == nil || l.done {
		return
	}
	l.timer.Stop()
	l.mu.Lock()
	l.done = true
	l.mu.Unlock()
}
