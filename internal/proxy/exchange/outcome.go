package exchange

import (
	"net/http"
	"time"

	"github.com/tulle-mesh/tulle/internal/breaker"
	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// Whole notes when the endpoint had all of the request, which took the client some time.
func (x *Exchange) Whole(at time.Time) {
	if at.After(x.asking) {
		x.asking = at
	}
}

// Answered notes that the head of the endpoint's answer is there. prompt says that the endpoint had all of the request
// from the beginning, or since when Whole says, so that the time it took is its own.
func (x *Exchange) Answered(status int, prompt bool) {
	x.Status, x.answered = status, true
	if faulty(status) {
		x.Endpoint.Fault()
	} else {
		began := x.asking
		if !prompt {
			began = time.Time{}
		}
		x.Endpoint.Answered(began)
	}
	x.record(breaker.Answer{Status: status})
}

// Far says that the endpoint was asked through the proxy of its node, which names its own refusals by refusal.Header.
func (x *Exchange) Far() bool { return x.far }

// Refused is called in place of Answered if the proxy of the endpoint's node answers itself, and says why. What that one
// has judged is no fault of the endpoint.
func (x *Exchange) Refused(status int, why refusal.Reason) {
	x.Status, x.answered = status, true
	switch why {
	case refusal.ConnectFailed:
		x.Endpoint.Failed()
	case refusal.UpstreamFailed:
		x.Endpoint.Fault()
	default:
		return
	}
	x.record(breaker.Answer{Status: status, Network: true})
}

// Unreached is called in place of Refused if the endpoint's node could not connect to it and the request can be sent again
// as it was. It is a failed connect like any other.
func (x *Exchange) Unreached() error {
	x.Endpoint.Failed()
	return &upstream.DialError{Address: x.Endpoint.Address(), Err: upstream.ErrEndpoint}
}

// faulty says that a status speaks against the endpoint: 501 and 505 speak of the request.
func faulty(status int) bool {
	return status >= 500 && status != http.StatusNotImplemented && status != http.StatusHTTPVersionNotSupported
}

// failed notes why there was no answer, or not all of one.
func (x *Exchange) failed() {
	switch x.Reason {
	case refusal.ConnectFailed: // the endpoint knows
	case refusal.UpstreamFailed:
		x.Endpoint.Fault()
	case refusal.Timeout:
		if x.answered || !x.bodyless {
			return // it may be the client that is slow
		}
		x.Endpoint.Fault()
	default:
		return
	}
	if !x.answered {
		x.record(breaker.Answer{Status: x.Status, Network: true})
	}
}

func (x *Exchange) record(a breaker.Answer) {
	if g := x.Port.Service.Guard; g.Watches() && !x.Client.Admitted {
		now := time.Now()
		a.Took = now.Sub(x.Begun)
		if g.Record(now, a) {
			x.Mesh.Meter.CircuitOpened(x.Port.Service.Namespace, x.Port.Service.Short)
			x.Mesh.Log.Warn("circuit opened", "namespace", x.Port.Service.Namespace, "name", x.Port.Service.Short)
		}
	}
}
