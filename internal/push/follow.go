package push

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

// clientStream is the stream as gRPC gives it.
type clientStream = discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient

// follower follows one stream. It gathers responses until one completes the config and every type is answered, applies
// them as one update, and only then answers them. It belongs to one goroutine.
type follower struct {
	client   *Client
	ads      clientStream
	answered bool            // at least one response came
	types    map[string]bool // types that are answered for
	staged   []*discovery.DeltaDiscoveryResponse
}

func newFollower(c *Client, ads clientStream) *follower {
	return &follower{client: c, ads: ads, types: map[string]bool{}}
}

// follow asks for all types, from what is in use on, and takes what comes until the stream ends.
func (f *follower) follow() error {
	for _, typ := range order() {
		err := f.ads.Send(&discovery.DeltaDiscoveryRequest{
			Node: &core.Node{UserAgentName: "tulle-proxy"}, TypeUrl: typ, ResourceNamesSubscribe: []string{"*"},
			InitialResourceVersions: f.client.versions(typ),
		})
		if err != nil {
			return f.ended(err)
		}
	}
	for {
		resp, err := f.ads.Recv()
		if err != nil {
			return err
		}
		f.answered = true
		f.types[resp.GetTypeUrl()] = true
		f.staged = append(f.staged, resp)
		if resp.GetSystemVersionInfo() == "" || len(f.types) < len(order()) {
			continue
		}
		if err := f.apply(resp.GetSystemVersionInfo()); err != nil {
			return f.ended(err)
		}
	}
}

// ended returns why the stream ended if sending said no more than that it has.
func (f *follower) ended(err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	for {
		if _, err := f.ads.Recv(); err != nil {
			return err
		}
	}
}

// apply takes what is staged into use and answers it.
func (f *follower) apply(version string) error {
	update, undecodable := decode(f.staged)
	refused := f.client.apply(update, undecodable)
	f.client.applied(version, len(update.Set)+len(update.Removed) > 0)
	staged := f.staged
	f.staged = nil
	for i, rejected := range assign(staged, refused) {
		req := &discovery.DeltaDiscoveryRequest{TypeUrl: staged[i].GetTypeUrl(), ResponseNonce: staged[i].GetNonce()}
		if rejected != nil {
			detail, err := anypb.New(rejected)
			if err != nil {
				return fmt.Errorf("encode refusals: %w", err)
			}
			req.ErrorDetail = &rpcstatus.Status{
				Code: int32(codes.InvalidArgument), Message: rejected.GetRejections()[0].GetReason(),
				Details: []*anypb.Any{detail},
			}
		}
		if err := f.ads.Send(req); err != nil {
			return err
		}
	}
	return nil
}

// applied notes what is in use now.
func (c *Client) applied(version string, changed bool) {
	c.update(func(s *Status) {
		if s.Version != version {
			s.Version, s.Since = version, time.Now()
		}
		s.Connected, s.FromDisk = true, false
	})
	if changed {
		select {
		case c.dirty <- struct{}{}:
		default:
		}
	}
	for _, signal := range []chan struct{}{c.ready, c.synced} {
		if !closed(signal) {
			close(signal) // only this goroutine does
		}
	}
}

// decode makes one update of responses: the last word on a resource counts. What cannot be decoded is refused.
func decode(staged []*discovery.DeltaDiscoveryResponse) (configv1.Update, []configv1.Refusal) {
	last := map[configv1.Key]*discovery.Resource{} // nil = removed
	for _, resp := range staged {
		for _, item := range resp.GetResources() {
			last[configv1.Key{Type: resp.GetTypeUrl(), Name: item.GetName()}] = item
		}
		for _, name := range resp.GetRemovedResources() {
			last[configv1.Key{Type: resp.GetTypeUrl(), Name: name}] = nil
		}
	}
	var update configv1.Update
	var refused []configv1.Refusal
	for key, item := range last {
		if item == nil {
			update.Removed = append(update.Removed, key)
			continue
		}
		r, err := decodeResource(key, item)
		if err != nil {
			refused = append(refused, configv1.Refusal{Key: key, Version: item.GetVersion(), Reason: err.Error()})
			continue
		}
		update.Set = append(update.Set, r)
	}
	slices.SortFunc(update.Set, func(a, b configv1.Resource) int { return a.Compare(b.Key) })
	slices.SortFunc(update.Removed, configv1.Key.Compare)
	return update, refused
}

// decodeResource decodes a resource of the types that a proxy knows.
func decodeResource(key configv1.Key, item *discovery.Resource) (configv1.Resource, error) {
	if got := item.GetResource().GetTypeUrl(); got != key.Type || !slices.Contains(order(), got) {
		return configv1.Resource{}, fmt.Errorf("a %q is not a %q that this proxy knows", got, key.Type)
	}
	m, err := item.GetResource().UnmarshalNew()
	if err != nil {
		return configv1.Resource{}, fmt.Errorf("decode: %w", err)
	}
	return configv1.Resource{Key: key, Version: item.GetVersion(), Message: m}, nil
}

// assign gives each refusal to the last response that set the resource, or to the last one of all; a response without
// refusals gets nil.
func assign(staged []*discovery.DeltaDiscoveryResponse, refused []configv1.Refusal) []*configv1.Rejections {
	out := make([]*configv1.Rejections, len(staged))
	if len(refused) == 0 {
		return out
	}
	where := map[configv1.Key]int{}
	for i, resp := range staged {
		for _, item := range resp.GetResources() {
			where[configv1.Key{Type: resp.GetTypeUrl(), Name: item.GetName()}] = i
		}
	}
	for _, r := range refused {
		i, ok := where[r.Key]
		if !ok {
			i = len(staged) - 1
		}
		if out[i] == nil {
			out[i] = &configv1.Rejections{}
		}
		out[i].Rejections = append(out[i].Rejections, &configv1.Rejection{
			TypeUrl: r.Type, Name: r.Name, Version: r.Version, Reason: r.Reason,
			BusyPort: r.BusyPort, BusyUdp: r.BusyUDP,
		})
	}
	return out
}
