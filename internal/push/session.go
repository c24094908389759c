package push

import (
	"slices"
	"strconv"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

const (
	// chunkBytes is what one response holds, roughly; a single larger resource goes alone. gRPC encodes into pooled
	// buffers of 32 KiB, then of 1 MiB: when all proxies come at once, the difference is most of the server's memory.
	chunkBytes = 28 << 10
	// maxTypes bounds what a stream can subscribe to. Types that this server doesn't know are answered as empty.
	maxTypes = 32
)

// session is the server's side of one stream without the stream: requests go in, responses come out. It belongs to one
// goroutine.
//
// It sends in batches: all that leads from what the peer was last sent to the current snapshot. The next batch waits
// until every response of this one is answered, so a slow peer has one batch under way and then gets the latest. Only
// the first answer for a type does not wait; it is of the same snapshot as the batch under way.
type session struct {
	peer    Peer
	types   map[string]*subscription
	refused refusals
	nonce   uint64

	// The batch under way: its snapshot and its unanswered responses by nonce.
	snap    *snapshot
	waiting map[string]*discovery.DeltaDiscoveryResponse
	acked   string // version of the last batch that was answered in full
}

// subscription is what the peer was last sent of one type.
type subscription struct {
	common, own *list
	// initial is what the peer had from an earlier stream, name to version; nil once the first answer is sent.
	initial map[string]string
	started bool
}

func newSession(peer Peer, retry time.Duration) *session {
	return &session{
		peer: peer, types: map[string]*subscription{}, refused: refusals{retry: retry, m: map[configv1.Key]*refusal{}},
		waiting: map[string]*discovery.DeltaDiscoveryResponse{},
	}
}

// receive takes a request. An error ends the stream.
func (s *session) receive(req *discovery.DeltaDiscoveryRequest, now time.Time) error {
	typ := req.GetTypeUrl()
	if typ == "" {
		return status.Error(codes.InvalidArgument, "a request needs a type URL")
	}
	for _, name := range req.GetResourceNamesSubscribe() {
		if err := s.mayAsk(typ, name); err != nil {
			return err
		}
	}
	if req.GetResponseNonce() != "" {
		s.answer(req, now)
	}
	if s.types[typ] != nil {
		return nil
	}
	if len(s.types) == maxTypes {
		return status.Errorf(codes.InvalidArgument, "more than %d types", maxTypes)
	}
	s.types[typ] = &subscription{common: emptyList, own: emptyList, initial: req.GetInitialResourceVersions()}
	return nil
}

// mayAsk says whether the peer may name a resource in a subscription: a type as a whole ("*"), and itself.
func (s *session) mayAsk(typ, name string) error {
	switch {
	case name == "*" || typ == configv1.ProxyType && name == s.peer.Pod:
		return nil
	case typ == configv1.ProxyType:
		return status.Errorf(codes.PermissionDenied, "%s may not ask for the config of %q", s.peer.Pod, name)
	default:
		return status.Errorf(codes.InvalidArgument, "subscribe to %q as a whole (\"*\"), not to %q", typ, name)
	}
}

// answer takes an ACK or NACK.
func (s *session) answer(req *discovery.DeltaDiscoveryRequest, now time.Time) {
	resp, ok := s.waiting[req.GetResponseNonce()]
	if !ok || resp.GetTypeUrl() != req.GetTypeUrl() {
		return
	}
	delete(s.waiting, req.GetResponseNonce())
	s.refused.answered(resp, req.GetErrorDetail(), s.sent, now)
	if len(s.waiting) == 0 {
		s.acked = s.snap.version(s.peer.Pod)
	}
}

// plan returns what to send now, in order. It is empty if the peer is up to date or has a batch to answer first.
func (s *session) plan(current *snapshot, now time.Time) []*discovery.DeltaDiscoveryResponse {
	busy := len(s.waiting) > 0
	if !busy {
		s.snap = current // else nothing has changed but for types that are new to the stream
	}
	var batch, removals []*discovery.DeltaDiscoveryResponse
	for _, typ := range s.order() {
		sub := s.types[typ]
		first := !sub.started
		set, removed := sub.advance(s.snap.common.of(typ), s.snap.own[s.peer.Pod].of(typ))
		s.refused.changed(typ, set, removed)
		if !busy {
			set = append(slices.Clip(set), s.retries(typ, now)...)
		}
		batch = append(batch, chunks(typ, set, first && len(removed) == 0)...)
		if len(removed) > 0 {
			removals = append(removals, &discovery.DeltaDiscoveryResponse{TypeUrl: typ, RemovedResources: removed})
		}
	}
	slices.Reverse(removals)
	return s.send(append(batch, removals...))
}

// send numbers the responses of a batch. The last one completes the config, which its version says.
func (s *session) send(batch []*discovery.DeltaDiscoveryResponse) []*discovery.DeltaDiscoveryResponse {
	for _, resp := range batch {
		s.nonce++
		resp.Nonce = strconv.FormatUint(s.nonce, 10)
		s.waiting[resp.GetNonce()] = resp
	}
	version := s.snap.version(s.peer.Pod)
	if len(batch) > 0 {
		batch[len(batch)-1].SystemVersionInfo = version
	} else if len(s.waiting) == 0 && len(s.types) > 0 {
		s.acked = version // what changed is nothing that this peer asks for
	}
	return batch
}

// order returns the types subscribed to in the order in which they are sent.
func (s *session) order() []string {
	known := order()
	types := make([]string, 0, len(s.types))
	for typ := range s.types {
		if !slices.Contains(known, typ) {
			types = append(types, typ)
		}
	}
	slices.Sort(types)
	known = slices.DeleteFunc(known, func(typ string) bool { return s.types[typ] == nil })
	return append(known, types...)
}

// retries returns refused resources whose time to be tried again has come.
func (s *session) retries(typ string, now time.Time) []*discovery.Resource {
	var again []*discovery.Resource
	for _, key := range s.refused.due(typ, now) {
		if item := s.find(key); item != nil {
			again = append(again, item)
		}
	}
	return again
}

// settled says whether what the peer lacked at first is sent: it has asked for all types that there are, or, if it is
// older and knows fewer, has answered a batch.
func (s *session) settled() bool {
	return s.acked != "" || !slices.ContainsFunc(order(), func(typ string) bool { return s.types[typ] == nil })
}

// wake returns when to plan again though nothing new has come; false if only news matter.
func (s *session) wake() (time.Time, bool) {
	if len(s.waiting) > 0 {
		return time.Time{}, false
	}
	return s.refused.next()
}

// find returns what the peer was last sent as key, nil if it wasn't.
func (s *session) find(key configv1.Key) *discovery.Resource {
	sub := s.types[key.Type]
	if sub == nil {
		return nil
	}
	if item := sub.common.find(key.Name); item != nil {
		return item
	}
	return sub.own.find(key.Name)
}

func (s *session) sent(key configv1.Key) string { return s.find(key).GetVersion() }

// advance moves the subscription on to the given lists and returns what the peer lacks and what it must drop.
func (s *subscription) advance(common, own *list) (set []*discovery.Resource, removed []string) {
	if s.started {
		set, removed = common.since(s.common)
		ownSet, ownRemoved := own.since(s.own)
		if len(ownSet) > 0 {
			set = append(slices.Clip(set), ownSet...)
		}
		if len(ownRemoved) > 0 {
			removed = append(slices.Clip(removed), ownRemoved...)
		}
	} else {
		set = common.sinceVersions(s.initial)
		if len(own.items) > 0 {
			set = append(slices.Clip(set), own.sinceVersions(s.initial)...)
		}
		for name := range s.initial {
			if common.find(name) == nil && own.find(name) == nil {
				removed = append(removed, name)
			}
		}
		slices.Sort(removed)
	}
	s.common, s.own, s.started, s.initial = common, own, true, nil
	return set, removed
}

// chunks cuts what is set into responses; none at all still makes one response if the type must be answered.
func chunks(typ string, set []*discovery.Resource, must bool) []*discovery.DeltaDiscoveryResponse {
	var batch []*discovery.DeltaDiscoveryResponse
	for len(set) > 0 {
		n, size := 0, 0
		for n < len(set) {
			size += len(set[n].GetResource().GetValue()) + len(set[n].GetName()) + len(typ) + 48
			if n > 0 && size > chunkBytes {
				break
			}
			n++
		}
		batch = append(batch, &discovery.DeltaDiscoveryResponse{TypeUrl: typ, Resources: set[:n:n]})
		set = set[n:]
	}
	if len(batch) == 0 && must {
		batch = append(batch, &discovery.DeltaDiscoveryResponse{TypeUrl: typ})
	}
	return batch
}
