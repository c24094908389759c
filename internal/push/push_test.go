package push

import (
	"log/slog"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

func TestSyncThenDelta(t *testing.T) {
	ca := newCA(t)
	s := serve(t, ca)
	own := map[string][]configv1.Resource{"p1": proxyFor(t, "p1", true), "p2": proxyFor(t, "p2", true)}
	common := config(t, 3, 0)
	s.Publish(common, own)
	p1, p2 := run(t, ca, s.addr, "p1"), run(t, ca, s.addr, "p2")
	for _, p := range []*node{p1, p2} {
		wait(t, "synced", p.Synced())
		wait(t, "ready", p.Ready())
	}
	// Everybody has what is common and what is for its own pod, nothing else, as one update.
	for pod, p := range map[string]*node{"p1": p1, "p2": p2} {
		if !has(p, common, own[pod])() {
			t.Errorf("%s has %v", pod, p.inUse.versions())
		}
		if h := p.history(); len(h) != 1 {
			t.Errorf("%s got %d updates, want 1", pod, len(h))
		}
	}

	// One resource changes, one goes, one comes: that is what travels.
	changed := resource(t, "shop/web-1", endpoints("web-1", 9999))
	added := resource(t, "shop/new", service("new"))
	next := append(config(t, 2, 0), changed, added)
	next = append(next[:3], next[4:]...) // without web-1's old endpoints
	s.Publish(next, own)
	eventually(t, "delta", has(p1, next, own["p1"]))
	h := p1.history()
	if len(h) != 1 || len(h[0].Set) != 2 || len(h[0].Removed) != 2 {
		t.Errorf("the delta was %v", h)
	}

	// What is for one pod alone reaches that pod alone.
	eventually(t, "p2 acked", s.upToDate("p2"))
	p2.history()
	draining := map[string][]configv1.Resource{"p1": proxyFor(t, "p1", false), "p2": own["p2"]}
	s.Publish(next, draining)
	eventually(t, "own delta", has(p1, next, draining["p1"]))
	eventually(t, "p1 acked", s.upToDate("p1"))
	if h := p2.history(); len(h) != 0 {
		t.Errorf("p2 got %v", h)
	}
}

func TestResumeGetsTheDifference(t *testing.T) {
	ca := newCA(t)
	first := serve(t, ca)
	common := config(t, 50, 0)
	first.Publish(common, map[string][]configv1.Resource{"p1": proxyFor(t, "p1", true)})
	p1 := run(t, ca, first.addr, "p1")
	wait(t, "synced", p1.Synced())
	eventually(t, "acked", first.upToDate("p1"))
	p1.history()

	// Another replica, to which nothing is known of the first one's streams, has the same config: nothing travels.
	first.stop()
	eventually(t, "disconnected", func() bool { return !p1.Status().Connected })
	second := NewServer(first.config)
	second.Publish(common, map[string][]configv1.Resource{"p1": proxyFor(t, "p1", true)})
	r2 := start(t, second, first.addr, first.pods)
	eventually(t, "resumed", r2.upToDate("p1"))
	if h := p1.history(); len(h) != 0 {
		t.Errorf("resuming at an equal replica brought %d updates: %v", len(h), h)
	}

	// A third has a config with one change, one addition and two removals: these travel.
	r2.stop()
	eventually(t, "disconnected again", func() bool { return !p1.Status().Connected })
	next := append(config(t, 49, 0), resource(t, "shop/new", endpoints("new", 1)))
	next[1] = resource(t, "shop/web-0", endpoints("web-0", 9))
	third := NewServer(first.config)
	third.Publish(next, map[string][]configv1.Resource{"p1": proxyFor(t, "p1", true)})
	r3 := start(t, third, first.addr, first.pods)
	eventually(t, "resumed again", r3.upToDate("p1"))
	if h := p1.history(); len(h) != 1 || len(h[0].Set) != 2 || len(h[0].Removed) != 2 {
		t.Errorf("resuming brought %v", h)
	}
	if !has(p1, next, proxyFor(t, "p1", true))() {
		t.Errorf("in use is %v", p1.inUse.versions())
	}
}

func TestRefusalsAreReportedAndTheRestApplied(t *testing.T) {
	ca := newCA(t)
	s := serve(t, ca, func(c *ServerConfig) { c.Retry = 20 * time.Millisecond })
	common := config(t, 3, 0)
	busy := configv1.Refusal{
		Key: configv1.Key{Type: configv1.ServiceType, Name: "shop/web-1"}, Reason: "port 5000 is busy", BusyPort: 5000,
	}
	s.Publish(common, nil)
	p1 := run(t, ca, s.addr, "p1", func(c *ClientConfig) { c.Applier.(*inUse).setRefuse(busy, true) })
	wait(t, "synced", p1.Synced())
	eventually(t, "acked", s.upToDate("p1"))
	w := want(common)
	delete(w, busy.Key)
	if got := p1.inUse.versions(); !maps.Equal(got, w) {
		t.Errorf("in use is %v, want all but the refused", got)
	}
	got := s.Refusals()["p1"]
	if len(got) != 1 || got[0].Key != busy.Key || got[0].Reason != busy.Reason || got[0].BusyPort != 5000 ||
		got[0].Version != want(common)[busy.Key] {
		t.Errorf("refusals are %+v", got)
	}
	if p1.Status().Refused != 1 {
		t.Errorf("the client says %+v", p1.Status())
	}

	// The port is free again: the same version is offered once more, and taken.
	wait(t, "the refusal is signalled", s.Changed())
	p1.setRefuse(busy, false)
	eventually(t, "taken", has(p1, common))
	eventually(t, "the refusal is over", func() bool { return len(s.Refusals()) == 0 })
	if p1.Status().Refused != 0 {
		t.Errorf("the client says %+v", p1.Status())
	}
}

func TestUndecodableIsRefusedAlone(t *testing.T) {
	ca := newCA(t)
	s := serve(t, ca)
	good := resource(t, "shop/web", service("web"))
	garbage := &configv1.Service{}
	garbage.ProtoReflect().SetUnknown([]byte{0x0a, 1, 0xff}) // a name that is no UTF-8
	bad := resource(t, "shop/bad", garbage)
	s.Publish([]configv1.Resource{bad, good}, nil)
	p1 := run(t, ca, s.addr, "p1")
	wait(t, "synced", p1.Synced())
	eventually(t, "acked", s.upToDate("p1"))
	if got := s.Refusals()["p1"]; len(got) != 1 || got[0].Key != bad.Key || !strings.Contains(got[0].Reason, "decode") {
		t.Errorf("refusals are %v", got)
	}
	if _, ok := p1.inUse.versions()[good.Key]; !ok {
		t.Error("the good one is not in use")
	}
}

func TestWrongControllerIsRefused(t *testing.T) {
	ca := newCA(t)
	s := serve(t, ca)
	s.Publish(config(t, 1, 0), nil)
	var log syncBuffer
	p1 := run(t, newCA(t), s.addr, "p1", func(c *ClientConfig) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	eventually(t, "a refusal", func() bool { return strings.Contains(log.String(), "certificate signed by unknown authority") })
	if s.counts.denied.Load() != 0 || closed(p1.Synced()) {
		t.Error("the token was sent to a controller of another CA")
	}
	// The CA file is read at each connect: the right one in place, it syncs.
	writeFile(t, p1.config.CAFile, string(ca.CertPEM()))
	wait(t, "synced", p1.Synced())

	var other syncBuffer
	run(t, ca, s.addr, "p2", func(c *ClientConfig) {
		c.ServerName, c.Log = "another.tulle-system.svc", slog.New(slog.NewTextHandler(&other, nil))
	})
	eventually(t, "the name is refused", func() bool { return strings.Contains(other.String(), "not another.tulle-system.svc") })
}

func TestTokenIsReadAtEachConnect(t *testing.T) {
	ca := newCA(t)
	s := serve(t, ca)
	s.Publish(config(t, 1, 0), nil)
	var log syncBuffer
	p1 := run(t, ca, s.addr, "p1", func(c *ClientConfig) {
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
		writeFile(t, c.TokenFile, "expired")
	})
	eventually(t, "a refusal", func() bool { return strings.Contains(log.String(), "Unauthenticated") })
	writeFile(t, p1.config.TokenFile, "token-p1")
	wait(t, "synced", p1.Synced())
}

func TestRestartServesTheStoredConfig(t *testing.T) {
	ca := newCA(t)
	s := serve(t, ca)
	own := map[string][]configv1.Resource{"p1": proxyFor(t, "p1", true)}
	common := config(t, 3, 0)
	s.Publish(common, own)
	store := &Store{Path: filepath.Join(t.TempDir(), "config")}
	p1 := run(t, ca, s.addr, "p1", func(c *ClientConfig) { c.Store = store })
	wait(t, "synced", p1.Synced())
	eventually(t, "acked", s.upToDate("p1"))
	version := connection(t, s, "p1").Version
	p1.stop()
	s.stop()

	// The container starts again, no controller answers.
	p1.inUse = newInUse()
	p1.config.Applier = p1.inUse
	p1.start(t)
	wait(t, "ready", p1.Ready())
	if !has(p1, common, own["p1"])() {
		t.Errorf("in use is %v", p1.inUse.versions())
	}
	if st := p1.Status(); !st.FromDisk || st.Connected || st.Version != version || closed(p1.Synced()) {
		t.Errorf("status is %+v", st)
	}
	p1.history()

	// A controller comes back with one thing less.
	next := NewServer(s.config)
	next.Publish(common[:6], own)
	r2 := start(t, next, s.addr, s.pods)
	wait(t, "synced", p1.Synced())
	eventually(t, "acked", r2.upToDate("p1"))
	if h := p1.history(); len(h) != 1 || len(h[0].Set) != 0 || len(h[0].Removed) != 1 {
		t.Errorf("it brought %v", h)
	}
	if st := p1.Status(); st.FromDisk || !st.Connected {
		t.Errorf("status is %+v", st)
	}
}

func TestStoreFollowsWhileRunning(t *testing.T) {
	ca := newCA(t)
	s := serve(t, ca)
	common := config(t, 1, 0)
	s.Publish(common, nil)
	store := &Store{Path: filepath.Join(t.TempDir(), "config")}
	p1 := run(t, ca, s.addr, "p1", func(c *ClientConfig) { c.Store, c.StoreEvery = store, time.Millisecond })
	wait(t, "synced", p1.Synced())
	stored := func() map[configv1.Key]string {
		_, resources, _ := store.Load()
		return want(resources)
	}
	eventually(t, "stored", func() bool { return maps.Equal(stored(), want(common)) })
	common = config(t, 2, 1)
	s.Publish(common, nil)
	eventually(t, "stored again", func() bool { return maps.Equal(stored(), want(common)) })
}
