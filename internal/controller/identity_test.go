package controller

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/status"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// Nodes whose protected pods nobody of another node can call are listed.
func TestNodesWithoutProxy(t *testing.T) {
	r := &round{
		topology: topology.Topology{Callers: []topology.Caller{{Node: "n1"}, {Node: "n2"}, {Node: "n3"}, {Node: "n3"}, {Node: "n4"}}},
		snapshot: Snapshot{Proxies: []shadow.Proxy{
			{Pod: "p1", Node: "n1", Ready: true, Tunnels: true},
			{Pod: "p2", Node: "n2", Ready: false, Tunnels: true},
			{Pod: "p3", Node: "n3", Ready: true}, // of a version without tunnels
		}},
	}
	c := &Controller{}
	if got := c.identity(r); got != nil {
		t.Errorf("without identities: %+v", got)
	}
	c.Trust = func() *configv1.TrustBundle { return &configv1.TrustBundle{Roots: [][]byte{{1}, {2}}} }
	c.Engine = &fakeEngine{}
	if got := c.identity(r); got != nil {
		t.Errorf("with an engine that has none: %+v", got)
	}
	c.Engine = nil
	want := &status.Identity{Mode: "spire", Roots: 2, NodesWithoutProxy: 2, WithoutProxy: []string{"n2", "n4"}, PlainNodes: 1}
	if diff := cmp.Diff(want, c.identity(r)); diff != "" {
		t.Error(diff)
	}
	end := time.Date(2027, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600))
	c.CAEnds = func() time.Time { return end }
	want.Mode, want.CAEnds = "tulle", time.Date(2027, 1, 2, 2, 4, 5, 0, time.UTC)
	if diff := cmp.Diff(want, c.identity(r)); diff != "" {
		t.Error(diff)
	}
}
