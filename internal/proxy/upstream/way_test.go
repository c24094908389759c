package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// fakeTunnels fail as they are told to.
type fakeTunnels struct {
	fails         error
	dials, probes int
	plain         map[string]int
}

func (f *fakeTunnels) Dial(context.Context, upstream.Target) (net.Conn, error) {
	f.dials++
	if f.fails != nil {
		return nil, fmt.Errorf("dial: %w", f.fails)
	}
	near, far := net.Pipe()
	far.Close()
	return near, nil
}

func (f *fakeTunnels) Probe(_ upstream.Caller, _ string, done func(bool)) {
	f.probes++
	done(f.fails == nil)
}
func (f *fakeTunnels) Holds(upstream.Caller) bool        { return true }
func (f *fakeTunnels) Forget(func(upstream.Caller) bool) {}
func (f *fakeTunnels) Plain(reason string)               { f.plain[reason]++ }

// What need not be protected does without a node's proxy that is out of reach: one call finds out, for all of the node's
// endpoints, and no call finds out whether it is back. An endpoint that a proxy doesn't know says nothing of others.
func TestOneCallFindsOut(t *testing.T) {
	for _, tc := range []struct {
		fails  error
		others bool // of the node do without it, too
	}{{upstream.ErrUnreachable, true}, {upstream.ErrUnknownThere, false}} {
		synctest.Test(t, func(t *testing.T) {
			f := &fakeTunnels{fails: tc.fails, plain: map[string]int{}}
			s := upstream.NewSet(upstream.Config{Tunnels: f})
			list := list("10.0.0.1", "10.0.0.2")
			for _, e := range list.GetPorts()[0].GetEndpoints() {
				e.Node, e.Pod, e.Workload = "node-b", "web-"+e.GetAddress(), "shop/web"
			}
			update(t, s, "shop/web", list)
			s.Reroute(func(string) upstream.Reach { return upstream.Tunnel })
			g := s.Group(web)
			one, two := g.Pick(), g.Pick()
			if one == two {
				two = g.Pick(one)
			}
			way := func(e *upstream.Endpoint) *upstream.Way {
				t.Helper()
				w, err := e.Way(upstream.Caller{Namespace: "shop", ServiceAccount: "client"}, upstream.Use{Service: "shop/web", Port: 80})
				if err != nil {
					t.Fatal(err)
				}
				return w
			}
			if _, err := way(one).Dial(t.Context()); !errors.Is(err, upstream.ErrUnreachable) {
				t.Fatal(err)
			}
			if way(one).Tunnelled() || way(two).Tunnelled() == tc.others || f.dials != 1 || f.probes != 0 {
				t.Errorf("%v: after a failure: %v %v, %+v", tc.fails, way(one).Tunnelled(), way(two).Tunnelled(), f)
			}
			<-time.After(11 * time.Second)
			if !tc.others {
				if !way(one).Tunnelled() {
					t.Error("it is never asked again")
				}
				return
			}
			for range 3 { // still away
				if way(two).Tunnelled() || f.probes != 1 || f.dials != 1 {
					t.Errorf("after a while: %+v", f)
				}
			}
			f.fails = nil
			<-time.After(11 * time.Second)
			if way(one).Tunnelled() || f.probes != 2 || f.dials != 1 {
				t.Errorf("the call that had it tried: %+v", f)
			}
			if !way(one).Tunnelled() || !way(two).Tunnelled() || f.plain["unreachable"] == 0 {
				t.Errorf("once it is back: %+v", f)
			}
		})
	}
}
