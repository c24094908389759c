package proxyconfig_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxyconfig"
	"github.com/tulle-mesh/tulle/internal/shadow"
)

func TestTrustSaysWhereProxiesAre(t *testing.T) {
	at := func(pod, node string, ready bool, addrs ...string) shadow.Proxy {
		p := shadow.Proxy{Pod: pod, Node: node, Ready: ready, Tunnels: !strings.HasPrefix(pod, "old")}
		for _, a := range addrs {
			p.Addresses = append(p.Addresses, netip.MustParseAddr(a))
		}
		return p
	}
	out, err := proxyconfig.Trust(&configv1.TrustBundle{TrustDomain: "cluster.local", Roots: [][]byte{{1}}}, []shadow.Proxy{
		at("p1", "n2", true, "10.0.2.1", "fd00::2:1"),
		at("p2", "n1", true, "10.0.1.2"),
		at("p3", "n1", false, "10.0.1.1"), // starts, or ends: may call, is not called
		at("p4", "n3", false, "10.0.3.1"),
		at("old1", "n5", true, "10.0.5.1"), // of a version that serves no tunnels
		at("old2", "n6", true, "10.0.6.1"), // the same, with its successor
		at("p7", "n6", true, "10.0.6.2"),
		at("old3", "n7", false, "10.0.7.1"), // the same, and not ready either
		at("old4", "n8", true, "10.0.8.1"),  // its successor starts
		at("p8", "n8", false, "10.0.8.2"),
		at("p5", "n4", true),            // has no address yet
		at("p6", "", false, "10.0.9.9"), // is on no node
	})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][3][]string{}
	bundles := 0
	for _, r := range out {
		switch m := r.Message.(type) {
		case *configv1.NodeProxies:
			got[r.Name] = [3][]string{m.GetReady(), m.GetAll()}
			if m.GetPlain() {
				got[r.Name] = [3][]string{m.GetReady(), m.GetAll(), {"plain"}}
			}
		case *configv1.TrustBundle:
			bundles++
		}
	}
	if diff := cmp.Diff(map[string][3][]string{
		"n1": {{"10.0.1.2"}, {"10.0.1.1", "10.0.1.2"}},
		"n2": {{"10.0.2.1"}, {"10.0.2.1", "fd00::2:1"}},
		"n3": {nil, {"10.0.3.1"}},
		"n5": {nil, {"10.0.5.1"}, {"plain"}},
		"n6": {{"10.0.6.2"}, {"10.0.6.1", "10.0.6.2"}},
		"n7": {nil, {"10.0.7.1"}},
		"n8": {nil, {"10.0.8.1", "10.0.8.2"}, {"plain"}},
	}, got); diff != "" || bundles != 1 {
		t.Errorf("%d bundles, %s", bundles, diff)
	}
	if out, err := proxyconfig.Trust(nil, nil); err != nil || len(out) != 0 {
		t.Error(out, err)
	}
}
