package exchange

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// maxConnects bounds how many endpoints are tried to connect to for one request.
const maxConnects = 5

// ErrNoEndpoint says that the backend has nobody to send a request to.
var ErrNoEndpoint = errors.New("no endpoint is ready")

// Carrier sends a request to endpoints.
type Carrier interface {
	// Context ends when nobody waits for an answer any more, or soon after.
	Context() context.Context
	// Attempt sends the request to Endpoint, by a way. Without an error the answer was passed on, as far as it came.
	// An *upstream.DialError says that nothing was sent.
	Attempt(w *upstream.Way) error
	// Stopped says that no other attempt is of use: time is up, or the client is gone.
	Stopped() bool
	// Bodyless says that the request has no body, of which a part might be lost.
	Bodyless() bool
}

// Forward tries endpoints of the chosen backend until one answers, and returns the last error if none did.
func (x *Exchange) Forward(c Carrier) error {
	e := x.Backend.Endpoints.PickAt(x.Begun)
	if e == nil {
		return ErrNoEndpoint
	}
	x.bodyless = c.Bodyless()
	err := x.attempt(c, e)
	if err == nil || errors.As(err, new(*Denied)) {
		return err
	}
	return x.again(c, e, err)
}

func (x *Exchange) attempt(c Carrier, e *upstream.Endpoint) error {
	x.Endpoint = e
	if err := x.judge(c.Context(), e); err != nil {
		return err
	}
	if x.Attempts == 0 && !x.Client.Admitted {
		// After access control: those who may not call are not to use up what others may.
		if reason := x.Port.Service.Guard.Admit(x.Begun); reason != "" {
			return &Denied{reason}
		}
	}
	x.Attempts++
	x.asking = x.Begun
	if x.Attempts > 1 || x.Caller == nil { // it has waited, or may have waited for who its caller is
		x.asking = time.Now()
	}
	e.Begin()
	defer e.End()
	err := x.send(c, e)
	if err != nil && errors.As(err, new(*upstream.DialError)) {
		x.Mesh.Meter.ConnectFailed()
	}
	return err //nolint:wrapcheck // the carrier says what it did
}

// send sends the request by the way that there is to an endpoint; one that need not be protected is not given up for want
// of its node's proxy.
func (x *Exchange) send(c Carrier, e *upstream.Endpoint) error {
	w, err := x.way(e)
	if err != nil {
		return err //nolint:wrapcheck // a DialError says it all
	}
	x.far = w.Tunnelled()
	err = c.Attempt(w)
	if w.Tunnelled() && errors.Is(err, upstream.ErrUnreachable) && !c.Stopped() {
		if w, _ = x.way(e); w != nil && !w.Tunnelled() {
			x.far = false
			return c.Attempt(w) //nolint:wrapcheck // the carrier says what it did
		}
	}
	return err //nolint:wrapcheck // as above
}

// again is what is done after the first attempt failed: another endpoint if nothing was sent, and as many further
// attempts as the service asks for at what may be repeated. All of it is within the service's budget of retries.
func (x *Exchange) again(c Carrier, e *upstream.Endpoint, err error) error {
	tried := []*upstream.Endpoint{e}
	repeats := 0
	for {
		failedConnect := errors.As(err, new(*upstream.DialError))
		if c.Stopped() {
			return err
		}
		next := x.Backend.Endpoints.Pick(tried...)
		switch {
		case failedConnect && len(tried) < maxConnects && next != nil:
		case repeats < x.Port.RetryAttempts && (failedConnect || x.bodyless && x.idempotent()):
			repeats++
			if next == nil {
				next = x.Backend.Endpoints.Pick() // there is no other
			}
		default:
			return err
		}
		if next == nil {
			return ErrNoEndpoint
		}
		if !x.Port.Service.Guard.Retry(x.Mesh.Retries) {
			x.Mesh.Meter.RetryDenied()
			return err
		}
		if !failedConnect {
			e.Fault() // of the last one End knows
		}
		x.Mesh.Meter.Retried()
		e = next
		if err = x.attempt(c, e); err == nil || errors.As(err, new(*Denied)) {
			return err
		}
		tried = append(tried, e)
	}
}

// idempotent says that doing it twice does what doing it once does (RFC 9110, 9.2.2).
func (x *Exchange) idempotent() bool {
	switch x.Method {
	case http.MethodPut, http.MethodDelete:
		return true
	}
	return x.Safe()
}

// Safe says that the request's method changes nothing (RFC 9110, 9.2.1).
func (x *Exchange) Safe() bool {
	switch x.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}
