package push

import (
	"maps"
	"slices"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

const (
	maxRetry  = 5 * time.Minute
	maxReason = 1 << 10
)

// refusals are the resources that one peer could not use. The same version is offered again after a growing wait, as
// what was in its way, such as a busy port, may have gone; a new version is offered at once.
type refusals struct {
	retry time.Duration // first wait
	m     map[configv1.Key]*refusal
	// touched is set when the list of refusals changed.
	touched bool
}

type refusal struct {
	configv1.Refusal
	wait  time.Duration
	again time.Time // zero while a retry is under way
}

// answered takes the answer to resp: what it names stays or becomes refused, the rest of resp is in use. sent gives the
// version of what the peer was sent earlier ("" if it wasn't): that may be refused late.
func (r *refusals) answered(
	resp *discovery.DeltaDiscoveryResponse, detail *rpcstatus.Status, sent func(configv1.Key) string, now time.Time,
) {
	if detail == nil && len(r.m) == 0 {
		return
	}
	rejected, all := rejections(detail)
	for key, rej := range rejected {
		if version := sent(key); version != "" && version == rej.GetVersion() {
			r.add(key, version, rej, now)
		}
	}
	for _, item := range resp.GetResources() {
		key := configv1.Key{Type: resp.GetTypeUrl(), Name: item.GetName()}
		if all {
			r.add(key, item.GetVersion(), &configv1.Rejection{Reason: detail.GetMessage()}, now)
		} else if rejected[key] == nil {
			r.remove(key)
		}
	}
}

// rejections reads the details of a NACK. Without any, all of the response was refused.
func rejections(detail *rpcstatus.Status) (byKey map[configv1.Key]*configv1.Rejection, all bool) {
	if detail == nil {
		return nil, false
	}
	byKey = map[configv1.Key]*configv1.Rejection{}
	all = true
	for _, d := range detail.GetDetails() {
		var list configv1.Rejections
		if d.UnmarshalTo(&list) != nil {
			continue
		}
		all = false
		for _, rej := range list.GetRejections() {
			byKey[configv1.Key{Type: rej.GetTypeUrl(), Name: rej.GetName()}] = rej
		}
	}
	return byKey, all
}

func (r *refusals) add(key configv1.Key, version string, rej *configv1.Rejection, now time.Time) {
	reason := rej.GetReason()
	next := configv1.Refusal{
		Key: key, Version: version, Reason: reason[:min(len(reason), maxReason)],
		BusyPort: rej.GetBusyPort(), BusyUDP: rej.GetBusyUdp(),
	}
	wait := r.retry
	if last, ok := r.m[key]; ok {
		if last.Version == version {
			wait = min(2*last.wait, maxRetry)
		}
		r.touched = r.touched || last.Refusal != next
	} else {
		r.touched = true
	}
	r.m[key] = &refusal{Refusal: next, wait: wait, again: now.Add(wait)}
}

// changed forgets what is no longer there, and does not retry what is being sent anyway.
func (r *refusals) changed(typ string, set []*discovery.Resource, removed []string) {
	if len(r.m) == 0 {
		return
	}
	for _, item := range set {
		if last, ok := r.m[configv1.Key{Type: typ, Name: item.GetName()}]; ok {
			last.again = time.Time{}
		}
	}
	for _, name := range removed {
		r.remove(configv1.Key{Type: typ, Name: name})
	}
}

func (r *refusals) remove(key configv1.Key) {
	if _, ok := r.m[key]; ok {
		delete(r.m, key)
		r.touched = true
	}
}

// due returns the refused resources of a type to try again now, and takes them as under way.
func (r *refusals) due(typ string, now time.Time) []configv1.Key {
	var keys []configv1.Key
	for key, ref := range r.m {
		if key.Type == typ && !ref.again.IsZero() && !now.Before(ref.again) {
			ref.again = time.Time{}
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, configv1.Key.Compare)
	return keys
}

// next returns when the next retry is due; false if none is waiting.
func (r *refusals) next() (time.Time, bool) {
	var first time.Time
	for _, ref := range r.m {
		if !ref.again.IsZero() && (first.IsZero() || ref.again.Before(first)) {
			first = ref.again
		}
	}
	return first, !first.IsZero()
}

// list returns the refusals by key.
func (r *refusals) list() []configv1.Refusal {
	out := make([]configv1.Refusal, 0, len(r.m))
	for _, key := range slices.SortedFunc(maps.Keys(r.m), configv1.Key.Compare) {
		out = append(out, r.m[key].Refusal)
	}
	return out
}
