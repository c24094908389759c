package http1

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy/exchange"
	"github.com/tulle-mesh/tulle/internal/proxy/policy"
	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
	"github.com/tulle-mesh/tulle/internal/proxy/socket"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

var (
	errInterrupted = errors.New("interrupted")
	errAnswer      = errors.New("the answer is not one to this request")
	errRequestBody = errors.New("the request's body can't be read to its end")
)

// responseLimits bound the head of an answer. A backend may say more than a client.
var responseLimits = Limits{Line: 8 << 10, Head: 256 << 10, Fields: 1000}

// protocol is how the backend is spoken to. Upgrades are for HTTP/1.1 only.
func (c *conn) protocol() upstream.HTTPProtocol {
	switch c.x.Backend.Scheme {
	case configv1.Scheme_SCHEME_HTTPS:
		if c.request.upgrade != nil {
			return upstream.TLS1
		}
		return upstream.TLS
	case configv1.Scheme_SCHEME_H2C:
		if c.request.upgrade == nil {
			return upstream.H2C
		}
	case configv1.Scheme_SCHEME_UNSPECIFIED, configv1.Scheme_SCHEME_HTTP:
	}
	return upstream.HTTP1
}

// forward sends the request to an endpoint and passes the answer on.
func (c *conn) forward() {
	if p := c.protocol(); p == upstream.H2C || p == upstream.TLS {
		c.fallback()
		return
	}
	stop := c.limit()
	err := c.x.Forward(c)
	if stop != nil {
		stop()
	}
	if err != nil {
		c.fail(err)
	}
}

// limit ends the exchange after the service's time limit, unless stop is called before; nil if there is none.
func (c *conn) limit() (stop func()) {
	if c.x.Port.Timeout == 0 {
		return nil
	}
	seq := c.seq
	timer := time.AfterFunc(c.x.Port.Timeout, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.seq == seq {
			c.interruptLocked(timeout)
		}
	})
	return func() {
		timer.Stop()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.seq++
	}
}

// interrupt ends the exchange that is under way, if there is one. It may be called by any goroutine.
func (c *conn) interrupt(why int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.interruptLocked(why)
}

// interruptLocked wakes whoever waits for the endpoint, or for the client to take more. The connection to the endpoint
// is the token: who has taken it out of c.up decides how the exchange ends.
func (c *conn) interruptLocked(why int32) {
	if !c.cause.CompareAndSwap(0, why) {
		return
	}
	if c.cancel != nil {
		c.cancel()
	}
	if up := c.up.Swap(nil); up != nil {
		_ = c.tcp.SetWriteDeadline(past) // both fail on connections that are closed
		_ = up.SetDeadline(past)
	}
}

// interrupted says why the exchange was, and returns only after interrupt has.
func (c *conn) interrupted() int32 {
	if c.cause.Load() == 0 {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause.Load()
}

// fail answers a request that no endpoint has answered.
func (c *conn) fail(err error) {
	x := &c.x
	if x.Endpoint != nil {
		x.Mesh.Log.Debug("request failed", "service", x.Port.Service.Name, "endpoint", x.Endpoint.Address(), "err", err)
	}
	why := c.interrupted()
	if why != 0 {
		c.closing = true
		_ = c.tcp.SetWriteDeadline(time.Time{}) // fails on a connection that is closed
	}
	var denied *exchange.Denied
	switch {
	case c.begun:
		c.breakOff(err)
	case errors.Is(err, exchange.ErrNoEndpoint):
		c.refuse(refusal.NoEndpoint)
	case errors.As(err, &denied):
		c.refuse(denied.Reason)
	case why == timeout:
		c.refuse(refusal.Timeout)
	case why == gone, why == closed:
		// Nobody is there to be told.
	case why == badBody, errors.Is(err, errRequestBody):
		c.failBody()
	case errors.Is(err, errUpgrade):
		c.refuse(refusal.UpgradeFailed)
	case isDial(err):
		c.refuse(policy.Unreached(err))
	default:
		c.refuse(refusal.UpstreamFailed)
	}
}

// failBody answers a request whose body could not be read: that is the client's fault.
func (c *conn) failBody() {
	c.closing = true
	if bad := (*Error)(nil); errors.As(c.bodyErr, &bad) || errors.Is(c.bodyErr, io.ErrUnexpectedEOF) {
		c.linger = true
		c.refuse(refusal.BadRequest)
	}
}

// breakOff ends an answer that has begun, so that the client can't take it for a whole one.
func (c *conn) breakOff(err error) {
	c.closing = true
	if c.interrupted() == timeout {
		c.x.Reason = refusal.Timeout
	} else if !errors.As(err, new(sinkError)) && c.interrupted() == 0 {
		c.x.Reason = refusal.UpstreamFailed
	}
	if c.toClient.framed == untilClose {
		spoil(c.tcp) // an orderly end would make it whole
	}
}

func isDial(err error) bool { return errors.As(err, new(*upstream.DialError)) }

// Context implements exchange.Carrier. A context of each request's own would cost more than waiting for a client that
// has gone.
func (c *conn) Context() context.Context { return c.server.ctx }

// Bodyless implements exchange.Carrier.
func (c *conn) Bodyless() bool { return c.request.body.framing == none }

// Stopped implements exchange.Carrier.
func (c *conn) Stopped() bool { return c.cause.Load() != 0 || c.begun || c.bodyErr != nil }

// Attempt implements exchange.Carrier. A kept connection that turns out to have ended is not the endpoint's answer: the
// request is sent again on a new one if nothing was sent, or if it changes nothing.
func (c *conn) Attempt(w *upstream.Way) error {
	repeatable := c.Bodyless() && c.x.Safe()
	for fresh := false; ; fresh = true {
		up, err := c.connect(w, fresh)
		if err != nil {
			return err
		}
		kept := up.Kept
		c.up.Store(up)
		err = c.carry(w, up)
		if err == nil || !kept || c.Stopped() || c.heard || c.toUp.wrote && !repeatable {
			return err
		}
		c.reqBody.begin(c.tcp, c.request.body, c.in, c.head)
	}
}

// connect takes a kept connection, or makes a new one.
func (c *conn) connect(w *upstream.Way, fresh bool) (*upstream.Conn, error) {
	p, name := c.protocol(), ""
	if p == upstream.TLS1 {
		name = c.x.ServerName()
	}
	if !fresh {
		if up := c.spare(w, p, name); up != nil {
			return up, nil
		}
	}
	ctx, cancel := context.WithCancel(c.server.ctx)
	defer cancel()
	c.mu.Lock()
	c.cancel = cancel
	stopped := c.cause.Load() != 0
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.cancel = nil
		c.mu.Unlock()
	}()
	if stopped {
		return nil, errInterrupted
	}
	var another func() *upstream.Conn
	if !fresh {
		another = func() *upstream.Conn { return c.spare(w, p, name) }
	}
	return w.Open(ctx, p, name, another) //nolint:wrapcheck // a DialError says it all
}

// spare takes a kept connection; nil if there is none. What has come on one meanwhile must not be taken for the answer: it
// is looked at, unless that is done when the request is sent.
func (c *conn) spare(w *upstream.Way, p upstream.HTTPProtocol, serverName string) *upstream.Conn {
	for {
		up := w.Take(p, serverName)
		if up == nil || c.asks(up) || up.Quiet() {
			return up
		}
		up.Close()
	}
}

// asks says that a request is sent together with the wait for its answer.
func (c *conn) asks(up *upstream.Conn) bool { return c.Bodyless() && up.Plain() != nil }

// carry makes one exchange on a connection, which it closes or gives back.
func (c *conn) carry(w *upstream.Way, up *upstream.Conn) error {
	reusable := false
	freeBuffer(c.answer)
	c.answer, c.heard, c.unsent = nil, false, false
	defer func() {
		reusable = c.endPump(up) && reusable
		// Who interrupted has taken the connection, and may still be about to set its deadline.
		if own := c.up.Swap(nil) != nil; own && reusable && !c.over {
			w.Keep(up)
		} else if !c.over {
			c.closing = c.closing || !own && c.begun
			up.Close()
		}
		c.toUp.free()
		c.toClient.free()
		freeBuffer(c.answer)
		c.answer = nil
	}()
	if c.cause.Load() != 0 {
		return errInterrupted
	}
	if err := c.send(up); err != nil {
		return err
	}
	for {
		n, err := c.readHead(up)
		if err != nil {
			return err
		}
		if c.response.status >= 200 {
			if c.replayable() && c.refusedBy() == refusal.ConnectFailed {
				c.reqBody.begin(c.tcp, c.request.body, c.in, c.head)
				return c.x.Unreached() //nolint:wrapcheck // a DialError says it all
			}
			reusable, err = c.deliver(up, n)
			return err
		}
		if c.response.status == 101 {
			return c.switchProtocols(up, n)
		}
		if err := c.interim(n); err != nil {
			return err
		}
	}
}

// send writes the request, with as much of its body as is there. The rest is sent while the answer is waited for.
func (c *conn) send(up *upstream.Conn) error {
	r := &c.request
	size := smallBuffer
	if r.body.framing != none {
		size = largeBuffer
	}
	c.toUp.begin(up.Conn, up.Out(), size)
	c.toUp.buffer = r.appendHead(c.toUp.buffer, hopHeader{
		target: c.x.Sent(), host: c.x.Endpoint.Address(), client: &c.client, cert: c.x.ClientCert(),
		far: c.client.Binding.Tunnel != nil,
	})
	c.toUp.framed = r.body.framing
	if r.body.framing == none {
		if c.unsent = c.asks(up); c.unsent {
			return nil
		}
		return c.toUp.flush()
	}
	if err := c.toUp.addReady(&c.reqBody); err != nil {
		if errors.As(err, new(sinkError)) {
			return err
		}
		c.bodyErr = err
		return errRequestBody
	}
	if err := c.toUp.flush(); err != nil {
		return err
	}
	if !c.reqBody.ended.Load() {
		c.startPump()
	}
	return nil
}

// readHead reads the next head from the endpoint and returns its length.
func (c *conn) readHead(up *upstream.Conn) (int, error) {
	for seen := 0; ; {
		if len(c.answer) > 0 {
			c.heard = true
			n, err := c.parseAnswer(&seen)
			if n > 0 || err != nil {
				return n, err
			}
		}
		if err := c.readMore(up); err != nil {
			return 0, err
		}
	}
}

// parseAnswer reads a head if it is whole. One that comes in pieces is not gone through again for each of them.
func (c *conn) parseAnswer(seen *int) (int, error) {
	before := *seen
	*seen = len(c.answer)
	if before > 0 && len(c.answer) <= responseLimits.Head {
		if end, err := headEnd(c.answer, before); end == 0 || err != nil {
			return 0, err
		}
	}
	return c.response.parse(c.answer, responseLimits)
}

// readMore reads more of the answer. No buffer is held while there is nothing.
func (c *conn) readMore(up *upstream.Conn) error {
	if c.answer == nil && up.Plain() != nil {
		if err := c.waitFor(up.Plain(), up.Kept); err != nil {
			return err
		}
		return c.upErr
	}
	if c.answer == nil {
		c.answer = takeBuffer(largeBuffer)[:0]
	}
	if len(c.answer) == cap(c.answer) {
		b := takeBuffer(2 * cap(c.answer))[:len(c.answer)]
		copy(b, c.answer)
		freeBuffer(c.answer)
		c.answer = b
	}
	n, err := up.Read(c.answer[len(c.answer):cap(c.answer)])
	c.answer = c.answer[:len(c.answer)+n]
	if n > 0 {
		c.client.Share.TurnToGoOn()
		return nil
	}
	return err //nolint:wrapcheck // as above
}

// waitFor waits for an answer, or more of it. A request that has no body is sent by that.
func (c *conn) waitFor(up *socket.Conn, kept bool) error {
	if !c.unsent {
		return up.Read(c.readAnswer) //nolint:wrapcheck // becomes a log line as it is
	}
	c.unsent, c.awaited = false, true
	n, err := up.Ask(c.toUp.buffer, kept, c.readAnswer)
	c.toUp.buffer, c.toUp.wrote = c.toUp.buffer[:0], n > 0
	return err //nolint:wrapcheck // as above
}

// interim passes on a 1xx answer with a head of n bytes. A 100 is for clients that wait for it only.
func (c *conn) interim(n int) error {
	r := &c.response
	if r.framing.cod || r.framing.length > 0 {
		return errAnswer
	}
	if c.request.minor > 0 && (r.status != 100 || c.request.expects) {
		c.toClient.begin(c.tcp, c.out, smallBuffer)
		c.toClient.buffer = r.appendHead(c.toClient.buffer, none, false)
		err := c.toClient.flush()
		c.toClient.free()
		if err != nil {
			c.begun = true // in a way: nothing else can be said
			return sinkError{err}
		}
	}
	c.answer = c.answer[:copy(c.answer, c.answer[n:])]
	return nil
}

// deliver passes the final answer on, whose head has n bytes, and says whether the endpoint's connection can be used
// again.
func (c *conn) deliver(up *upstream.Conn, n int) (reusable bool, err error) {
	r := &c.response
	body, odd := r.body(c.x.Method == "HEAD")
	framed := body.framing
	if framed == chunked || framed == untilClose {
		framed = chunked
		if c.request.minor == 0 {
			framed = untilClose
		}
	}
	c.closing = c.closing || !c.reqBody.ended.Load() || c.server.draining.Load() || c.client.Binding.Closed.Load()
	c.upBody.begin(up.Conn, body, c.answer, n)
	c.upBody.own = true // the head is not needed once it was rewritten
	c.answer = nil
	defer c.upBody.free()
	c.toClient.begin(c.tcp, c.out, largeBuffer)
	if c.client.Binding.Tunnel != nil {
		r.drop([]byte(refusal.Header)) // which would be taken for this proxy's word
	}
	c.toClient.buffer = r.appendHead(c.toClient.buffer, framed, c.closing)
	c.toClient.framed = framed
	if why := c.refusedBy(); why != "" {
		c.x.Refused(r.status, why)
	} else {
		c.x.Answered(r.status, !c.pumping)
	}
	c.begun = true
	if err := c.toClient.addReady(&c.upBody); err != nil {
		return false, errors.Join(err, c.toClient.flush())
	}
	if err := c.toClient.pass(&c.upBody); err != nil {
		return false, err
	}
	return !r.close && !odd && body.framing != untilClose && len(c.upBody.rest()) == 0, nil
}

// refusedBy is why the proxy of the endpoint's node answers in its place; empty if it doesn't.
func (c *conn) refusedBy() refusal.Reason {
	if !c.x.Far() {
		return ""
	}
	r := &c.response
	for i := range r.fields {
		if f := &r.fields[i]; f.kind == meshOwn && fold(r.name(f), refusal.Header) {
			return refusal.Reason(r.value(f))
		}
	}
	return ""
}

// replayable says that all of the request is where it was read first, and nothing of an answer was sent.
func (c *conn) replayable() bool { return !c.pumping && !c.begun }

// startPump sends the rest of the request's body in a goroutine of its own.
func (c *conn) startPump() {
	if c.pumped == nil {
		c.pumped = make(chan struct{}, 1)
	}
	c.pumping, c.pumpFailed = true, false
	go c.pump()
}

func (c *conn) pump() {
	defer func() { c.pumped <- struct{}{} }()
	defer func() {
		if p := recover(); p != nil {
			c.server.panicked(p, nil)
			c.pumpFailed, c.bodyErr = true, errRequestBody
			c.interrupt(badBody)
		}
	}()
	err := c.toUp.pass(&c.reqBody)
	if err == nil {
		return
	}
	c.pumpFailed = true
	if errors.As(err, new(sinkError)) {
		return // an endpoint that takes no more may have said why
	}
	c.bodyErr = err
	c.interrupt(badBody)
}

// lastWrite is how long an endpoint that has answered may take to read the end of the request.
const lastWrite = time.Second

// endPump waits for the body's goroutine, and says whether all of the request reached the endpoint. An answer that came
// before all of the body was there ends it.
func (c *conn) endPump(up *upstream.Conn) (whole bool) {
	if !c.pumping {
		return c.reqBody.ended.Load()
	}
	c.pumping = false
	select {
	case <-c.pumped: // the usual case
		return !c.pumpFailed
	default:
	}
	if c.reqBody.ended.Load() {
		_ = up.SetWriteDeadline(time.Now().Add(lastWrite)) // it fails on a connection that is closed, as do the others
		<-c.pumped
		return !c.pumpFailed && up.SetWriteDeadline(time.Time{}) == nil
	}
	c.closing, c.linger = true, true
	_ = up.SetWriteDeadline(past)
	_ = c.tcp.SetReadDeadline(past)
	<-c.pumped
	return false
}

// writeFailed says that moving bytes between two connections failed on the side that they were written to.
func writeFailed(err error) bool {
	var op *net.OpError
	return errors.Is(err, syscall.EPIPE) || errors.As(err, &op) && strings.HasPrefix(op.Op, "write")
}
