package push

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// adsStream is the stream as gRPC gives it.
type adsStream = discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer

// stream is one proxy's stream.
type stream struct {
	ads      adsStream
	peer     Peer
	since    time.Time
	replaced chan struct{} // closed when the peer opened a newer one too many
	session  *session      // belongs to the goroutine of Server.drive
	state    atomic.Pointer[Connection]
}

// DeltaAggregatedResources serves one stream. It returns, which ends the stream even if sending is blocked, as soon as
// the peer's pod is gone.
func (s *Server) DeltaAggregatedResources(ads adsStream) error {
	ctx, cancel := context.WithCancel(ads.Context())
	defer cancel()
	if s.current.Load() == nil {
		return status.Error(codes.Unavailable, "this replica has no config yet")
	}
	peer, err := s.judge.peer(ctx)
	if err != nil {
		s.counts.denied.Add(1)
		s.config.Log.Warn("refused a config stream", "err", err)
		return err
	}
	gone := s.judge.Gone(ctx, peer)
	st := &stream{
		ads: ads, peer: peer, since: time.Now(), replaced: make(chan struct{}),
		session: newSession(peer, s.config.Retry),
	}
	st.state.Store(&Connection{Peer: peer, Since: st.since})
	s.streams.add(st)
	s.notify()
	s.config.Log.Info("proxy connected", "name", peer.Pod, "node", peer.Node)

	ended := make(chan error, 2)
	requests := make(chan *discovery.DeltaDiscoveryRequest)
	s.workers.Go(func() {
		admitted := s.admit(ctx)
		s.workers.Go(func() { ended <- s.drive(ctx, st, requests, admitted) })
		ended <- receive(ctx, ads, requests)
	})
	select {
	case err = <-ended:
	case <-gone:
		err = status.Error(codes.Unauthenticated, "the pod is gone")
	case <-st.replaced:
		err = status.Error(codes.Aborted, "replaced by newer streams of the same pod")
	case <-s.stop:
		err = status.Error(codes.Unavailable, "this replica is stopping")
	}
	s.streams.remove(st)
	s.notify()
	if status.Code(err) == codes.PermissionDenied {
		s.counts.denied.Add(1)
		s.config.Log.Warn("refused a request", "name", peer.Pod, "node", peer.Node, "err", err)
	}
	s.config.Log.Info("proxy disconnected", "name", peer.Pod, "node", peer.Node, "err", err)
	return err
}

// admit waits for a place among the streams that are brought up to date. The place is given back by the function
// returned, or after a while.
func (s *Server) admit(ctx context.Context) (leave func()) {
	select {
	case s.admits <- struct{}{}:
	case <-ctx.Done():
		return func() {}
	}
	once := sync.OnceFunc(func() { <-s.admits })
	timer := time.AfterFunc(admissionTime, once)
	return func() {
		timer.Stop()
		once()
	}
}

// receive hands on the requests of a stream until it ends.
func receive(ctx context.Context, ads adsStream, requests chan<- *discovery.DeltaDiscoveryRequest) error {
	for {
		req, err := ads.Recv()
		if errors.Is(err, io.EOF) {
			return nil // the proxy ended it
		}
		if err != nil {
			return err
		}
		select {
		case requests <- req:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// drive runs the stream's session; admitted is called once the proxy has all it asks for, or the stream has ended.
func (s *Server) drive(
	ctx context.Context, st *stream, requests <-chan *discovery.DeltaDiscoveryRequest, admitted func(),
) error {
	defer admitted()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		current := s.current.Load()
		for _, resp := range st.session.plan(current, time.Now()) {
			if err := st.ads.Send(resp); err != nil {
				return err
			}
			s.counts.resources.Add(uint64(len(resp.GetResources())))
			s.counts.removals.Add(uint64(len(resp.GetRemovedResources())))
		}
		s.report(st)
		if st.session.settled() {
			admitted()
		}
		timer.Stop()
		if again, ok := st.session.wake(); ok {
			timer.Reset(time.Until(again))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		case <-current.superseded:
		case req := <-requests:
			if req.GetErrorDetail() != nil {
				s.counts.nacks.Add(1)
			}
			if err := st.session.receive(req, time.Now()); err != nil {
				return err
			}
		}
	}
}

// report publishes where the stream stands, for Connections.
func (s *Server) report(st *stream) {
	c := *st.state.Load()
	c.Acked = st.session.acked
	switch {
	case len(st.session.waiting) == 0:
		c.Waiting = time.Time{}
	case c.Waiting.IsZero():
		c.Waiting = time.Now()
	}
	touched := st.session.refused.touched
	if touched {
		c.Refusals = st.session.refused.list()
		st.session.refused.touched = false
	}
	st.state.Store(&c)
	if touched {
		s.notify()
	}
}
