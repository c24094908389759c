package access_test

import (
	"net/http"
	"strings"
	"testing"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/access"
)

func compile(t testing.TB, p *configv1.Policy) *access.Workload {
	t.Helper()
	w, err := new(access.Compiler).Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func source(name string) *configv1.Source {
	namespace, account, _ := strings.Cut(name, "/")
	return &configv1.Source{Namespace: namespace, ServiceAccount: account}
}

func known(name string) access.Caller {
	namespace, account, _ := strings.Cut(name, "/")
	return access.Caller{Identity: access.Identity{Namespace: namespace, ServiceAccount: account}, Standing: access.Known}
}

func request(method, path string, headers ...string) *access.Request {
	h := http.Header{}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
	return &access.Request{Method: method, Path: path, Host: "web.shop.mesh", Values: func(name string) []string { return h[name] }}
}

const (
	httpKind = configv1.RuleKind_RULE_KIND_HTTP
	tcpKind  = configv1.RuleKind_RULE_KIND_TCP
	udpKind  = configv1.RuleKind_RULE_KIND_UDP
)

// api allows GET below /api to everybody who names it, and with x-role: admin everything else.
func api() []*configv1.MatchGroup {
	return []*configv1.MatchGroup{{Name: "api", Matches: []*configv1.Match{
		{Name: "read", PathRegex: "^(?:/api)", Methods: []string{"GET"}},
		{Name: "admin", Headers: []*configv1.HeaderMatch{{Name: "x-role", ValueRegex: "^(?:admin)$"}}},
	}}}
}

func grant(target, from string, rules ...*configv1.Rule) *configv1.Grant {
	return &configv1.Grant{Target: target, Sources: []*configv1.Source{source(from)}, Rules: rules}
}

func TestDecide(t *testing.T) {
	w := compile(t, &configv1.Policy{Mode: configv1.AccessMode_ACCESS_MODE_ENFORCE, Groups: api(), Grants: []*configv1.Grant{
		grant("shop/http", "shop/http", &configv1.Rule{Kind: httpKind, Name: "api"}),
		grant("shop/read", "shop/read", &configv1.Rule{Kind: httpKind, Name: "api", Matches: []uint32{0}}),
		grant("shop/tcp", "shop/tcp", &configv1.Rule{Kind: tcpKind, Name: "db", Ports: []uint32{90, 80}}),
		grant("shop/udp", "shop/udp", &configv1.Rule{Kind: udpKind, Name: "dns"}),
		grant("shop/both", "shop/both", &configv1.Rule{Kind: httpKind, Name: "api"}, &configv1.Rule{Kind: tcpKind, Name: "db", Ports: []uint32{90}}),
		grant("shop/broken", "shop/broken", &configv1.Rule{Kind: httpKind, Name: "gone", Broken: true}, &configv1.Rule{Kind: tcpKind, Name: "db"}),
		grant("shop/no-port", "shop/no-port", &configv1.Rule{Kind: httpKind, Name: "api"}, &configv1.Rule{Kind: tcpKind, Name: "gone", Broken: true}),
		{Target: "shop/limit", Port: 90, Sources: []*configv1.Source{source("shop/limit")}, Rules: []*configv1.Rule{{Kind: tcpKind, Name: "all"}, {Kind: udpKind, Name: "all"}}},
	}})
	get := request("GET", "/api/x")
	for _, tc := range []struct {
		name     string
		caller   access.Caller
		port     uint32
		protocol access.Protocol
		request  *access.Request
		want     string // the reason, or what allows it
	}{
		{"nobody", access.Caller{}, 80, access.HTTP, get, "unknown-caller"},
		{"stale", access.Caller{Identity: known("shop/http").Identity, Standing: access.Stale}, 80, access.HTTP, get, "identity-stale"},
		{"elsewhere", access.Caller{Identity: known("shop/http").Identity, Standing: access.Elsewhere}, 80, access.HTTP, get, "caller-not-local"},
		{"A3 not a source", known("shop/other"), 80, access.HTTP, get, "source-denied"},
		{"A8 another namespace", known("other/http"), 80, access.HTTP, get, "source-denied"},
		{"A8 literal", known("shop/http."), 80, access.HTTP, get, "source-denied"},
		{"A4 first match", known("shop/http"), 80, access.HTTP, get, "HTTPRouteGroup api read"},
		{"A4 second match", known("shop/http"), 80, access.HTTP, request("POST", "/", "X-Role: admin"), "HTTPRouteGroup api admin"},
		{"A4 named match only", known("shop/read"), 80, access.HTTP, request("POST", "/", "X-Role: admin"), "route-denied"},
		{"A3 route not listed", known("shop/http"), 80, access.HTTP, request("POST", "/api"), "route-denied"},
		{"S2 every value", known("shop/http"), 80, access.HTTP, request("POST", "/", "X-Role: admin", "X-Role: user"), "route-denied"},
		{"the path that counts", known("shop/http"), 80, access.HTTP, request("GET", "/api/..;/admin"), "route-denied"},
		{"no canonical path", known("shop/http"), 80, access.HTTP, request("GET", "/api%2f"), "bad-path"},
		{"no path rule, no canonical path", known("shop/tcp"), 80, access.HTTP, request("GET", "/api%2f"), "TCPRoute db"},
		{"HTTP rules allow no TCP", known("shop/http"), 80, access.TCP, nil, "port-denied"},
		{"A5 HTTP by ports", known("shop/tcp"), 80, access.HTTP, request("DELETE", "/"), "TCPRoute db"},
		{"A5 another port", known("shop/tcp"), 81, access.HTTP, get, "port-denied"},
		{"A5 TCP", known("shop/tcp"), 90, access.TCP, nil, "TCPRoute db"},
		{"A6 TCP is not UDP", known("shop/tcp"), 80, access.UDP, nil, "port-denied"},
		{"A6 UDP is not TCP", known("shop/udp"), 80, access.TCP, nil, "port-denied"},
		{"A6 UDP is not HTTP", known("shop/udp"), 80, access.HTTP, get, "port-denied"},
		{"S4 all ports", known("shop/udp"), 5353, access.UDP, nil, "UDPRoute dns"},
		{"both: port and match", known("shop/both"), 90, access.HTTP, get, "HTTPRouteGroup api read"},
		{"both: another port", known("shop/both"), 80, access.HTTP, get, "port-denied"},
		{"both: no match", known("shop/both"), 90, access.HTTP, request("PUT", "/"), "route-denied"},
		{"both: no HTTP, no TCP", known("shop/both"), 90, access.TCP, nil, "port-denied"},
		{"broken group does not widen", known("shop/broken"), 80, access.HTTP, get, "route-denied"},
		{"broken group does not widen TCP", known("shop/broken"), 80, access.TCP, nil, "port-denied"},
		{"broken TCP route does not widen", known("shop/no-port"), 80, access.HTTP, get, "port-denied"},
		{"limit", known("shop/limit"), 90, access.TCP, nil, "TCPRoute all"},
		{"limit HTTP", known("shop/limit"), 80, access.HTTP, get, "port-denied"},
		{"limit UDP", known("shop/limit"), 80, access.UDP, nil, "port-denied"},
		{"HTTP without a request", known("shop/tcp"), 80, access.HTTP, nil, "port-denied"},
	} {
		v := access.Decide(tc.caller, w, access.Port{Number: tc.port, Protocol: tc.protocol}, tc.request)
		got := string(v.Reason)
		if v.Rule != nil {
			got = strings.TrimSpace(v.Rule.Kind + " " + v.Rule.Route + " " + v.Rule.Match)
		}
		if got != tc.want || v.Allow != (v.Reason == "") || v.Allow != (v.Rule != nil) {
			t.Errorf("%s: got %q, %+v, want %q", tc.name, got, v, tc.want)
		}
	}
}

func TestModes(t *testing.T) {
	port := access.Port{Number: 80, Protocol: access.HTTP}
	if v := access.Decide(access.Caller{}, nil, port, nil); v != (access.Verdict{Allow: true}) {
		t.Errorf("not protected: %+v", v)
	}
	if v := access.Decide(known("a/a"), access.DenyAll(), port, nil); v != (access.Verdict{Reason: access.NoTarget}) {
		t.Errorf("default deny: %+v", v)
	}
	if v := access.Decide(known("a/a"), compile(t, &configv1.Policy{}), port, nil); v.Allow {
		t.Errorf("a mode that is not said: %+v", v)
	}
	audited := compile(t, &configv1.Policy{Mode: configv1.AccessMode_ACCESS_MODE_AUDIT, Groups: api(), Grants: []*configv1.Grant{
		grant("shop/http", "shop/http", &configv1.Rule{Kind: httpKind, Name: "api"}),
	}})
	if v := access.Decide(known("shop/x"), audited, port, request("GET", "/")); v != (access.Verdict{Allow: true, Audit: true, Reason: access.SourceDenied}) {
		t.Errorf("audited: %+v", v)
	}
	if v := access.Decide(known("shop/http"), audited, port, request("GET", "//api")); !v.Allow || v.Reason != "" || v.Path != "" {
		t.Errorf("audited, a path that is not canonical: %+v", v)
	}
}

func TestNonsenseIsRefused(t *testing.T) {
	for name, p := range map[string]*configv1.Policy{
		"mode":       {Mode: 9},
		"kind":       {Grants: []*configv1.Grant{grant("t", "a/a", &configv1.Rule{})}},
		"group":      {Grants: []*configv1.Grant{grant("t", "a/a", &configv1.Rule{Kind: httpKind})}},
		"match":      {Groups: api(), Grants: []*configv1.Grant{grant("t", "a/a", &configv1.Rule{Kind: httpKind, Matches: []uint32{2}})}},
		"path":       {Groups: []*configv1.MatchGroup{{Matches: []*configv1.Match{{PathRegex: "("}}}}},
		"value":      {Groups: []*configv1.MatchGroup{{Matches: []*configv1.Match{{Headers: []*configv1.HeaderMatch{{Name: "a", ValueRegex: "("}}}}}}},
		"field name": {Groups: []*configv1.MatchGroup{{Matches: []*configv1.Match{{Headers: []*configv1.HeaderMatch{{Name: "a b"}}}}}}},
	} {
		if _, err := new(access.Compiler).Compile(p); err == nil {
			t.Errorf("%s: compiled", name)
		}
	}
}

// A9: which target comes first makes no difference.
func TestUnionInBothOrders(t *testing.T) {
	a := grant("shop/a", "shop/a", &configv1.Rule{Kind: httpKind, Name: "api", Matches: []uint32{0}})
	b := grant("shop/b", "shop/b", &configv1.Rule{Kind: httpKind, Name: "api"})
	port := access.Port{Number: 80, Protocol: access.HTTP}
	for _, grants := range [][]*configv1.Grant{{a, b}, {b, a}} {
		w := compile(t, &configv1.Policy{Groups: api(), Grants: grants})
		for from, want := range map[string]bool{"shop/a": false, "shop/b": true} {
			if v := access.Decide(known(from), w, port, request("POST", "/", "X-Role: admin")); v.Allow != want {
				t.Errorf("%s first, %s: %+v", grants[0].GetTarget(), from, v)
			}
			if v := access.Decide(known(from), w, port, request("GET", "/api")); !v.Allow {
				t.Errorf("%s first, %s: %+v", grants[0].GetTarget(), from, v)
			}
		}
	}
}
