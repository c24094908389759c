package push

import (
	"testing"

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
