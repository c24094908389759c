package push

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

// model is a peer of a session that takes every response by itself, as it comes.
type model struct {
	t    *testing.T
	s    *session
	has  map[configv1.Key]string
	owed []*discovery.DeltaDiscoveryResponse
}

func newModel(t *testing.T, pod string, has map[configv1.Key]string) *model {
	m := &model{t: t, s: newSession(Peer{Pod: pod}, 10*time.Second), has: has}
	for _, typ := range order() {
		m.subscribe(typ)
	}
	return m
}

func (m *model) subscribe(typ string) {
	m.t.Helper()
	versions := map[string]string{}
	for key, version := range m.has {
		if key.Type == typ {
			versions[key.Name] = version
		}
	}
	req := &discovery.DeltaDiscoveryRequest{TypeUrl: typ, InitialResourceVersions: versions}
	if err := m.s.receive(req, time.Time{}); err != nil {
		m.t.Fatal(err)
	}
}

// take takes what the session plans, and returns what it was: "set TYPE NAME" and "removed TYPE NAME".
func (m *model) take(snap *snapshot, now time.Time) []string {
	var log []string
	for _, resp := range m.s.plan(snap, now) {
		short := strings.TrimPrefix(resp.GetTypeUrl(), configv1.TypePrefix+"tulle.config.v1.")
		for _, item := range resp.GetResources() {
			m.has[configv1.Key{Type: resp.GetTypeUrl(), Name: item.GetName()}] = item.GetVersion()
			log = append(log, "set "+short+" "+item.GetName())
		}
		for _, name := range resp.GetRemovedResources() {
			delete(m.has, configv1.Key{Type: resp.GetTypeUrl(), Name: name})
			log = append(log, "removed "+short+" "+name)
		}
		m.owed = append(m.owed, resp)
		m.checkPointers()
	}
	return log
}

// checkPointers fails if a service is there whose endpoints are not.
func (m *model) checkPointers() {
	m.t.Helper()
	for key := range m.has {
		if key.Type != configv1.ServiceType {
			continue
		}
		if _, ok := m.has[configv1.Key{Type: configv1.EndpointsType, Name: key.Name}]; !ok {
			m.t.Errorf("%s points at endpoints that are not there", key)
		}
	}
}

// answer answers what is owed, refusing what refuse names.
func (m *model) answer(now time.Time, refuse ...configv1.Key) {
	m.t.Helper()
	for _, resp := range m.owed {
		req := &discovery.DeltaDiscoveryRequest{TypeUrl: resp.GetTypeUrl(), ResponseNonce: resp.GetNonce()}
		rej := &configv1.Rejections{}
		for _, item := range resp.GetResources() {
			if key := (configv1.Key{Type: resp.GetTypeUrl(), Name: item.GetName()}); slices.Contains(refuse, key) {
				rej.Rejections = append(rej.Rejections, &configv1.Rejection{
					TypeUrl: key.Type, Name: key.Name, Version: item.GetVersion(), Reason: "busy", BusyPort: 5000,
				})
			}
		}
		if len(rej.GetRejections()) > 0 {
			detail, err := anypb.New(rej)
			if err != nil {
				m.t.Fatal(err)
			}
			req.ErrorDetail = &rpcstatus.Status{Code: int32(codes.InvalidArgument), Details: []*anypb.Any{detail}}
		}
		if err := m.s.receive(req, now); err != nil {
			m.t.Fatal(err)
		}
	}
	m.owed = nil
}

// snapshots makes one snapshot after the other.
type snapshots struct {
	maker maker
	last  *snapshot
}

func (s *snapshots) next(t testing.TB, common []configv1.Resource, own map[string][]configv1.Resource) *snapshot {
	t.Helper()
	next, err := s.maker.next(s.last, common, own)
	if err != nil {
		t.Fatal(err)
	}
	s.last = next
	return next
}

func TestOneBatchUnderWay(t *testing.T) {
	var snaps snapshots
	m := newModel(t, "p1", map[configv1.Key]string{})
	now := time.Now()
	m.take(snaps.next(t, config(t, 2, 0), nil), now)
	for rev := range uint32(5) {
		if log := m.take(snaps.next(t, config(t, 2, rev+1), nil), now); log != nil {
			t.Fatalf("sent %v before the batch under way was answered", log)
		}
	}
	m.answer(now)
	if m.s.acked == snaps.last.version("p1") {
		t.Error("an answer to an old batch counted as one to the current config")
	}
	log := m.take(snaps.last, now)
	if want := []string{"set Endpoints shop/web-0", "set Endpoints shop/web-1"}; !slices.Equal(log, want) {
		t.Errorf("then sent %v, want %v: the latest, once", log, want)
	}
	m.answer(now)
	if got, want := m.s.acked, snaps.last.version("p1"); got != want {
		t.Errorf("acked %q, want %q", got, want)
	}
}

func TestRefusedIsNotRepeated(t *testing.T) {
	var snaps snapshots
	m := newModel(t, "p1", map[configv1.Key]string{})
	now := time.Now()
	web0 := configv1.Key{Type: configv1.ServiceType, Name: "shop/web-0"}
	m.take(snaps.next(t, config(t, 2, 0), nil), now)
	m.answer(now, web0)
	if m.s.acked != snaps.last.version("p1") {
		t.Error("a refusal kept the rest from being confirmed")
	}
	if got := m.s.refused.list(); len(got) != 1 || got[0].Key != web0 || got[0].BusyPort != 5000 {
		t.Fatalf("refusals are %v", got)
	}

	// Others change: the refused one stays where it is.
	now = now.Add(time.Second)
	if log := m.take(snaps.next(t, config(t, 2, 1), nil), now); slices.Contains(log, "set Service shop/web-0") {
		t.Errorf("the refused version was sent again: %v", log)
	}
	m.answer(now)

	// It is offered again after 10 s, then 20 s, then 40 s.
	for _, wait := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second} {
		again, ok := m.s.wake()
		if !ok {
			t.Fatal("no retry is planned")
		}
		if log := m.take(snaps.last, again.Add(-time.Millisecond)); log != nil {
			t.Errorf("sent %v before its time", log)
		}
		if log := m.take(snaps.last, again); !slices.Equal(log, []string{"set Service shop/web-0"}) {
			t.Errorf("the retry sent %v", log)
		}
		m.answer(again, web0)
		now = again
		if next, _ := m.s.wake(); wait < 40*time.Second && next.Sub(again) != 2*wait {
			t.Errorf("after %v the next wait is %v", wait, next.Sub(again))
		}
	}

	// A new version is offered at once; taken, the refusal is over.
	changed := config(t, 2, 1)
	changed[2] = resource(t, "shop/web-0", &configv1.Service{Namespace: "shop", Name: "web-0"})
	if log := m.take(snaps.next(t, changed, nil), now); !slices.Equal(log, []string{"set Service shop/web-0"}) {
		t.Errorf("the change sent %v", log)
	}
	m.answer(now)
	if got := m.s.refused.list(); len(got) != 0 {
		t.Errorf("refusals are still %v", got)
	}
	if _, ok := m.s.wake(); ok {
		t.Error("a retry is still planned")
	}
}

func TestRefusalGoesWithItsResource(t *testing.T) {
	var snaps snapshots
	m := newModel(t, "p1", map[configv1.Key]string{})
	now := time.Now()
	m.take(snaps.next(t, config(t, 2, 0), nil), now)
	m.answer(now, configv1.Key{Type: configv1.ServiceType, Name: "shop/web-1"})
	m.take(snaps.next(t, config(t, 1, 0), nil), now)
	m.answer(now)
	if got := m.s.refused.list(); len(got) != 0 {
		t.Errorf("refusals of nothing: %v", got)
	}
}

func TestBareNackRefusesTheWholeResponse(t *testing.T) {
	var snaps snapshots
	m := newModel(t, "p1", map[configv1.Key]string{})
	now := time.Now()
	m.take(snaps.next(t, config(t, 2, 0), nil), now)
	for _, resp := range m.owed {
		req := &discovery.DeltaDiscoveryRequest{TypeUrl: resp.GetTypeUrl(), ResponseNonce: resp.GetNonce()}
		if resp.GetTypeUrl() == configv1.EndpointsType {
			req.ErrorDetail = &rpcstatus.Status{Code: int32(codes.Internal), Message: strings.Repeat("x", 1<<20)}
		}
		if err := m.s.receive(req, now); err != nil {
			t.Fatal(err)
		}
	}
	got := m.s.refused.list()
	if len(got) != 2 || got[0].Name != "shop/web-0" || got[1].Name != "shop/web-1" || len(got[0].Reason) > maxReason {
		t.Errorf("refusals are %d: %.200v", len(got), got)
	}
}

func TestWhatMayBeAskedFor(t *testing.T) {
	for _, tc := range []struct {
		typ, name string
		want      codes.Code
	}{
		{configv1.ServiceType, "*", codes.OK},
		{configv1.ProxyType, "*", codes.OK},
		{configv1.ProxyType, "p1", codes.OK},
		{configv1.ProxyType, "p2", codes.PermissionDenied},
		{configv1.ServiceType, "shop/web", codes.InvalidArgument},
		{"type.googleapis.com/tulle.config.v9.Unheard", "*", codes.OK},
		{"", "*", codes.InvalidArgument},
	} {
		s := newSession(Peer{Pod: "p1"}, time.Second)
		req := &discovery.DeltaDiscoveryRequest{TypeUrl: tc.typ, ResourceNamesSubscribe: []string{tc.name}}
		if got := status.Code(s.receive(req, time.Now())); got != tc.want {
			t.Errorf("asking for %q of %q gave %v, want %v", tc.name, tc.typ, got, tc.want)
		}
	}
}

func TestUnknownTypeIsEmpty(t *testing.T) {
	var snaps snapshots
	const unheard = "type.googleapis.com/tulle.config.v9.Unheard"
	m := newModel(t, "p1", map[configv1.Key]string{})
	m.subscribe(unheard)
	m.take(snaps.next(t, config(t, 1, 0), nil), time.Now())
	if !slices.ContainsFunc(m.owed, func(r *discovery.DeltaDiscoveryResponse) bool { return r.GetTypeUrl() == unheard }) {
		t.Error("a type that only newer proxies know got no answer: they would never be synced")
	}
}

func TestTypesAreBounded(t *testing.T) {
	s := newSession(Peer{Pod: "p1"}, time.Second)
	var err error
	for i := 0; err == nil && i <= maxTypes; i++ {
		err = s.receive(&discovery.DeltaDiscoveryRequest{TypeUrl: fmt.Sprint("t", i)}, time.Now())
	}
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("%d types gave %v", maxTypes+1, err)
	}
}

func TestChunks(t *testing.T) {
	var snaps snapshots
	m := newModel(t, "p1", map[configv1.Key]string{})
	snap := snaps.next(t, config(t, 2000, 0), nil)
	m.take(snap, time.Now())
	complete := 0
	for _, resp := range m.owed {
		size := 0
		for _, item := range resp.GetResources() {
			size += len(item.GetResource().GetValue())
		}
		if size > chunkBytes {
			t.Errorf("a response of %d bytes", size)
		}
		if resp.GetSystemVersionInfo() != "" {
			complete++
		}
	}
	if last := m.owed[len(m.owed)-1]; complete != 1 || last.GetSystemVersionInfo() != snap.version("p1") {
		t.Errorf("%d responses complete the config; the last one says %q", complete, last.GetSystemVersionInfo())
	}
	if len(m.has) != 4001 {
		t.Errorf("%d resources arrived", len(m.has))
	}
}

// TestAnyHistory drives sessions through random histories: config that changes in any way, answers that come late or
// refuse, streams that break. In the end the peer has what is published, and never did a service point at nothing.
func TestAnyHistory(t *testing.T) {
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		var snaps snapshots
		now := time.Unix(0, 0)
		publish := func() ([]configv1.Resource, map[string][]configv1.Resource) {
			var common []configv1.Resource
			for i := range 6 {
				if name := fmt.Sprintf("web-%d", i); rnd.IntN(3) > 0 {
					common = append(common, resource(t, "shop/"+name, service(name)),
						resource(t, "shop/"+name, endpoints(name, uint32(rnd.IntN(3)))))
				}
			}
			own := map[string][]configv1.Resource{"p1": nil, "p2": proxyFor(t, "p2", true)}
			if rnd.IntN(4) > 0 {
				own["p1"] = proxyFor(t, "p1", rnd.IntN(2) > 0)
			}
			rnd.Shuffle(len(common), func(i, j int) { common[i], common[j] = common[j], common[i] })
			snaps.next(t, common, own)
			return common, own
		}
		common, own := publish()
		m := newModel(t, "p1", map[configv1.Key]string{})
		for range 40 {
			now = now.Add(time.Duration(rnd.IntN(8)) * time.Second)
			switch rnd.IntN(5) {
			case 0, 1:
				common, own = publish()
			case 2:
				m.answer(now)
			case 3:
				m.answer(now, configv1.Key{Type: configv1.EndpointsType, Name: "shop/web-0"})
			case 4:
				m = newModel(t, "p1", m.has)
			}
			m.take(snaps.last, now)
		}
		m.answer(now)
		m.take(snaps.last, now)
		m.answer(now)
		if w := want(common, own["p1"]); !maps.Equal(m.has, w) {
			t.Fatalf("seed %d: the peer has %v, want %v", seed, m.has, w)
		}
		if m.s.acked != snaps.last.version("p1") || len(m.s.waiting) != 0 {
			t.Fatalf("seed %d: acked %q, %d answers owed", seed, m.s.acked, len(m.s.waiting))
		}
	}
}

// What is shared between streams is not written to when one stream's own is added.
func TestSharedDeltasStayApart(t *testing.T) {
	var snaps snapshots
	own := func(rev uint32) map[string][]configv1.Resource {
		m := map[string][]configv1.Resource{}
		for _, pod := range []string{"p1", "p2"} {
			m[pod] = []configv1.Resource{resource(t, "own/"+pod, endpoints(pod, rev))}
		}
		return m
	}
	now := time.Now()
	snap := snaps.next(t, config(t, 3, 0), own(0))
	m1, m2 := newModel(t, "p1", map[configv1.Key]string{}), newModel(t, "p2", map[configv1.Key]string{})
	for range 3 { // three changed resources, in a slice with room for a fourth
		for _, m := range []*model{m1, m2} {
			m.take(snap, now)
		}
		for pod, m := range map[string]*model{"p1": m1, "p2": m2} {
			for _, resp := range m.owed {
				for _, item := range resp.GetResources() {
					if name := item.GetName(); strings.HasPrefix(name, "own/") && name != "own/"+pod {
						t.Fatalf("%s got %s", pod, name)
					}
				}
			}
			m.answer(now)
		}
		rev := uint32(m1.s.nonce)
		snap = snaps.next(t, config(t, 3, rev), own(rev))
	}
}

func TestUnchangedIsShared(t *testing.T) {
	var snaps snapshots
	a := snaps.next(t, config(t, 10, 0), map[string][]configv1.Resource{"p1": proxyFor(t, "p1", true)})
	b := snaps.next(t, config(t, 10, 0), map[string][]configv1.Resource{"p1": proxyFor(t, "p1", true)})
	for _, typ := range order() {
		if a.common.of(typ) != b.common.of(typ) || a.own["p1"].of(typ) != b.own["p1"].of(typ) {
			t.Errorf("equal lists of %s are two", typ)
		}
	}
	if a.version("p1") != b.version("p1") || a.version("p1") == a.version("p2") {
		t.Error("versions don't tell what a peer gets")
	}
	c := snaps.next(t, append(config(t, 9, 0), resource(t, "shop/web-9", endpoints("web-9", 1))), nil)
	if b.common.of(configv1.EndpointsType).items[3] != c.common.of(configv1.EndpointsType).items[3] {
		t.Error("an unchanged resource was encoded again")
	}
}

func TestWhatCannotBeSentStays(t *testing.T) {
	var m maker
	good := resource(t, "shop/web", service("web"))
	first, err := m.next(nil, []configv1.Resource{good}, nil)
	if err != nil {
		t.Fatal(err)
	}
	huge := resource(t, "shop/web", &configv1.Service{Name: strings.Repeat("x", maxResource)})
	next, err := m.next(first, []configv1.Resource{huge, resource(t, "shop/other", service("other"))}, nil)
	if err == nil || !strings.Contains(err.Error(), "shop/web") {
		t.Errorf("the error is %v", err)
	}
	l := next.common.of(configv1.ServiceType)
	if len(l.items) != 2 || l.find("shop/web").GetVersion() != good.Version {
		t.Errorf("the list is %v", l.items)
	}
}
