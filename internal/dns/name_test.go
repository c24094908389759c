package dns

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

func TestParse(t *testing.T) {
	web := name{kind: service, namespace: "shop", service: "web"}
	pod := name{kind: service, namespace: "shop", service: "web", pod: "web-0"}
	port := name{kind: service, namespace: "shop", service: "web", port: "http", proto: "tcp"}
	for in, want := range map[string]name{
		"":                                {kind: apex},
		"_tulle":                          {kind: probe},
		"4711._tulle":                     {kind: probe},
		"a.b._tulle":                      {},
		"_whoami":                         {kind: whoami},
		"a._whoami":                       {kind: service, namespace: "_whoami", service: "a"}, // nobody can make one
		"shop":                            {kind: empty},
		"local":                           {kind: empty},
		"_tcp":                            {},
		"web.shop":                        web,
		"web.shop.svc.local":              web,
		"web-0.web.shop":                  pod,
		"web-0.web.shop.svc.local":        pod,
		"_http._tcp.web.shop":             port,
		"_http._tcp.web.shop.svc.local":   port,
		"_dns._udp.web.shop":              {kind: service, namespace: "shop", service: "web", port: "dns", proto: "udp"},
		"_http._tcp.web-0.web.shop":       {kind: service, namespace: "shop", service: "web", pod: "web-0", port: "http", proto: "tcp"},
		"_tcp.web.shop":                   {kind: service, namespace: "shop", service: "web", proto: "tcp"},
		"_http._sctp.web.shop":            {},
		"_http.web.shop":                  {},
		"__._tcp.web.shop":                {kind: service, namespace: "shop", service: "web", port: "_", proto: "tcp"},
		"_._tcp.web.shop":                 {},
		"_http._tcp.shop":                 {},
		"_http._tcp":                      {},
		"_tcp.shop":                       {},
		"a.b.c.d":                         {},
		"a.b.c.d.svc.local":               {},
		"web.shop.svc.cluster":            {},
		"svc.local":                       {kind: service, namespace: "local", service: "svc", short: true},
		"shop.svc.local":                  {kind: service, namespace: "local", service: "svc", pod: "shop", short: true},
		"svc.local.svc.local":             {kind: service, namespace: "local", service: "svc"},
		"_http._tcp.svc.local":            {kind: service, namespace: "local", service: "svc", port: "http", proto: "tcp"},
		"_http._tcp.shop.svc.local":       {kind: service, namespace: "local", service: "svc", pod: "shop", port: "http", proto: "tcp"},
		"_http._tcp.a.b.c.d.svc.local":    {},
		`we\.b.shop`:                      {kind: service, namespace: "shop", service: `we\.b`},
		"_http._tcp.p.web.shop.svc.local": {kind: service, namespace: "shop", service: "web", pod: "p", port: "http", proto: "tcp"},
	} {
		if diff := cmp.Diff(want, parse(dns.SplitDomainName(dns.Fqdn(in))), cmp.AllowUnexported(name{})); diff != "" {
			t.Errorf("%q (-want +got)\n%s", in, diff)
		}
	}
}

func TestInZone(t *testing.T) {
	zones := []string{"mesh", "traefik.mesh", "corp.example"}
	for in, want := range map[string]string{
		"mesh.":                            "mesh ",
		"web.shop.mesh.":                   "mesh web,shop",
		"web.shop.traefik.mesh.":           "traefik.mesh web,shop",
		"traefik.mesh.":                    "traefik.mesh ",
		"a.corp.example.":                  "corp.example a",
		"web.shop.mesh.svc.cluster.local.": "",
		"xmesh.":                           "",
		"example.":                         "",
		".":                                "",
	} {
		got := ""
		if zone, labels, ok := inZone(in, zones); ok {
			got = zone + " " + strings.Join(labels, ",")
		}
		if got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

// FuzzParse holds the parser to what it must never do, whatever a client sends: invent names, or answer one name for
// what a different spelling of labels asks.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"web.shop.mesh.", "web.shop.svc.local.mesh.", "_http._tcp.web.shop.mesh.", "p.web.shop.mesh.", "_tulle.mesh.", "_whoami.mesh.",
		"mesh.", ".", `a\.b.shop.mesh.`, `\000.shop.mesh.`, "_._tcp.web.shop.mesh.", "svc.local.mesh.", "WEB.shop.MESH.",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, qname string) {
		if _, ok := dns.IsDomainName(qname); !ok {
			return
		}
		zone, labels, ok := inZone(strings.ToLower(dns.Fqdn(qname)), []string{"mesh", "traefik.mesh"})
		if !ok {
			return
		}
		n := parse(labels)
		if n.kind != service {
			if n != (name{kind: n.kind}) {
				t.Fatalf("%q: %+v has parts and is no service", qname, n)
			}
			return
		}
		if n.namespace == "" || n.service == "" || n.port != "" && n.proto == "" {
			t.Fatalf("%q: %+v lacks a part", qname, n)
		}
		if short, long := n.String()+"."+zone+".", n.String()+".svc.local."+zone+"."; !sameAs(qname, short) && !sameAs(qname, long) {
			t.Fatalf("%q was taken for %q or %q", qname, short, long)
		}
	})
}

func sameAs(qname, want string) bool { return strings.EqualFold(dns.Fqdn(qname), want) }

// String is the short form, relative to the zone.
func (n name) String() string {
	var labels []string
	if n.port != "" {
		labels = append(labels, "_"+n.port)
	}
	if n.proto != "" {
		labels = append(labels, "_"+n.proto)
	}
	if n.pod != "" {
		labels = append(labels, n.pod)
	}
	return strings.Join(append(labels, n.service, n.namespace), ".")
}
