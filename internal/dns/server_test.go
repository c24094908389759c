package dns

import (
	"context"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

// fakeView is a View of fixed resources.
type fakeView struct {
	mesh      atomic.Pointer[configv1.Mesh]
	services  map[string]*configv1.Service
	endpoints map[string]*configv1.Endpoints
	closed    map[string]bool // services without an open listener
}

func (v *fakeView) Mesh() *configv1.Mesh { return v.mesh.Load() }

func (v *fakeView) Service(namespace, name, pod string) (*configv1.Service, bool) {
	key := strings.TrimSuffix(namespace+"/"+name+"/"+pod, "/")
	return v.services[key], !v.closed[key]
}

func (v *fakeView) Endpoints(namespace, name string) *configv1.Endpoints {
	return v.endpoints[namespace+"/"+name]
}

func exampleMesh() *configv1.Mesh {
	return &configv1.Mesh{Zones: []string{"mesh", "traefik.mesh"}, ClusterDomain: "cluster.local"}
}

func exampleView(mesh *configv1.Mesh) *fakeView {
	http := []*configv1.Port{
		{Port: 80, Name: "http", Protocol: configv1.Protocol_PROTOCOL_HTTP, TargetPort: 16000},
		{Port: 53, Name: "dns", Protocol: configv1.Protocol_PROTOCOL_UDP, TargetPort: 16001},
		{Port: 54, Name: "dns", Protocol: configv1.Protocol_PROTOCOL_TCP, TargetPort: 16001},
	}
	var many []*configv1.Endpoint
	for i := range 200 {
		many = append(many, &configv1.Endpoint{Address: "10.244.9." + strconv.Itoa(i), Port: 8080})
	}
	v := &fakeView{
		services: map[string]*configv1.Service{
			"shop/web":      {Namespace: "shop", Name: "web", Addresses: []string{"10.96.0.7", "fd00::7"}, PlainAddresses: []string{"10.96.0.8"}, Ports: http},
			"shop/new":      {Namespace: "shop", Name: "new", Ports: http},
			"shop/closed":   {Namespace: "shop", Name: "closed", Addresses: []string{"10.96.0.9"}, Ports: http},
			"shop/db":       {Namespace: "shop", Name: "db", Addresses: []string{"10.96.0.10"}, Ports: http[:1]},
			"shop/db/db-0":  {Namespace: "shop", Name: "db", Pod: "db-0", Addresses: []string{"10.96.0.11"}, Ports: http[:1]},
			"shop/crowd":    {Namespace: "shop", Name: "crowd", Addresses: []string{"10.96.0.12"}, Ports: http[:1]},
			"local/svc":     {Namespace: "local", Name: "svc", Addresses: []string{"10.96.0.13"}, Ports: http[:1]},
			"shop/bad-addr": {Namespace: "shop", Name: "bad-addr", Addresses: []string{"nonsense"}, Ports: http[:1]},
		},
		endpoints: map[string]*configv1.Endpoints{
			"shop/db": {Ports: []*configv1.EndpointPort{
				{Port: 80, Endpoints: []*configv1.Endpoint{
					{Address: "10.244.1.5", Port: 8080, Pod: "db-1"},
					{Address: "10.244.1.4", Port: 8080, Pod: "db-0"},
					{Address: "10.244.1.6", Port: 8080, Pod: "db-2", Draining: true},
					{Address: "fd00:1::4", Port: 8081, Pod: "db-0"},
				}},
				{Port: 80, Udp: true, Endpoints: []*configv1.Endpoint{{Address: "10.244.1.99", Port: 8080}}},
			}},
			"shop/crowd": {Ports: []*configv1.EndpointPort{{Port: 80, Endpoints: many}}},
		},
		closed: map[string]bool{"shop/closed": true},
	}
	v.mesh.Store(mesh)
	return v
}

// serve runs a server on loopback and returns where; it must stop at the end of the test without an error.
func serve(t *testing.T, c Config) string {
	t.Helper()
	return serveAt(t, c, "127.0.0.1:0")
}

func serveAt(t *testing.T, c Config, address string) string {
	t.Helper()
	_, at := start(t, c, address)
	return at
}

func start(t *testing.T, c Config, address string) (s *Server, at string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	p, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err = New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, l, p) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	return s, l.Addr().String()
}

func ask(t *testing.T, network, server string, m *dns.Msg) *dns.Msg {
	t.Helper()
	c := &dns.Client{Net: network, Timeout: 5 * time.Second}
	r, _, err := c.Exchange(m, server)
	if err != nil {
		t.Fatalf("%s %s: %v", network, m.Question[0].Name, err)
	}
	return r
}

func question(qname string, qtype uint16) *dns.Msg {
	return new(dns.Msg).SetQuestion(qname, qtype)
}

// plain writes records with single spaces, sorted.
func plain(rrs []dns.RR) []string {
	var all []string
	for _, rr := range rrs {
		if rr.Header().Rrtype != dns.TypeOPT {
			all = append(all, strings.Join(strings.Fields(rr.String()), " "))
		}
	}
	slices.Sort(all)
	return all
}

const soa = "mesh. 2 IN SOA tulle-dns.tulle-system.svc.cluster.local. hostmaster.mesh. 1 7200 1800 86400 2"

type answered struct {
	Rcode         string
	Answer, Extra []string
}

func one(rr ...string) answered { return answered{Rcode: "NOERROR", Answer: rr} }

var (
	noData  = answered{Rcode: "NOERROR"}
	noName  = answered{Rcode: "NXDOMAIN"}
	refused = answered{Rcode: "REFUSED"}
	answers = []struct {
		qname string
		qtype uint16
		want  answered
	}{
		{"web.shop.mesh.", dns.TypeA, one("web.shop.mesh. 5 IN A 10.96.0.7")},
		{"web.shop.mesh.", dns.TypeAAAA, one("web.shop.mesh. 5 IN AAAA fd00::7")},
		{"web.shop.svc.local.mesh.", dns.TypeA, one("web.shop.svc.local.mesh. 5 IN A 10.96.0.7")},
		{"web.shop.traefik.mesh.", dns.TypeA, one("web.shop.traefik.mesh. 5 IN A 10.96.0.7")},
		{"wEb.ShOp.sVc.LoCaL.MeSh.", dns.TypeA, one("wEb.ShOp.sVc.LoCaL.MeSh. 5 IN A 10.96.0.7")},
		{"web.shop.mesh.", dns.TypeMX, noData},
		{"web.shop.mesh.", dns.TypeHINFO, noData},
		{"web.shop.mesh.", dns.TypeANY, one(`web.shop.mesh. 5 IN HINFO "RFC8482" ""`)},
		{"db.shop.mesh.", dns.TypeAAAA, noData},
		{"db-0.db.shop.mesh.", dns.TypeA, one("db-0.db.shop.mesh. 5 IN A 10.96.0.11")},
		{"db-0.db.shop.svc.local.mesh.", dns.TypeA, one("db-0.db.shop.svc.local.mesh. 5 IN A 10.96.0.11")},
		{"db-1.db.shop.mesh.", dns.TypeA, noName},
		{"bad-addr.shop.mesh.", dns.TypeA, noData},

		{"_http._tcp.web.shop.mesh.", dns.TypeSRV, answered{
			"NOERROR",
			[]string{"_http._tcp.web.shop.mesh. 5 IN SRV 0 100 80 web.shop.mesh."},
			[]string{"web.shop.mesh. 5 IN A 10.96.0.7", "web.shop.mesh. 5 IN AAAA fd00::7"},
		}},
		{"_DNS._udp.web.shop.svc.local.mesh.", dns.TypeSRV, answered{
			"NOERROR",
			[]string{"_DNS._udp.web.shop.svc.local.mesh. 5 IN SRV 0 100 53 web.shop.mesh."},
			[]string{"web.shop.mesh. 5 IN A 10.96.0.7", "web.shop.mesh. 5 IN AAAA fd00::7"},
		}},
		{"db.shop.mesh.", dns.TypeSRV, answered{
			"NOERROR",
			[]string{"db.shop.mesh. 5 IN SRV 0 100 80 db.shop.mesh."},
			[]string{"db.shop.mesh. 5 IN A 10.96.0.10"},
		}},
		{"_http._tcp.db-0.db.shop.mesh.", dns.TypeSRV, answered{
			"NOERROR",
			[]string{"_http._tcp.db-0.db.shop.mesh. 5 IN SRV 0 100 80 db-0.db.shop.mesh."},
			[]string{"db-0.db.shop.mesh. 5 IN A 10.96.0.11"},
		}},
		{"_http._tcp.web.shop.mesh.", dns.TypeA, noData},
		{"_http._udp.web.shop.mesh.", dns.TypeSRV, noName},
		{"_nosuch._tcp.web.shop.mesh.", dns.TypeSRV, noName},
		{"_tcp.web.shop.mesh.", dns.TypeSRV, noData},
		{"_tcp.nosuch.shop.mesh.", dns.TypeSRV, noName},

		{"nosuch.shop.mesh.", dns.TypeA, noName},
		{"web.nosuch.mesh.", dns.TypeA, noName},
		{"a.b.c.d.mesh.", dns.TypeA, noName},
		{"new.shop.mesh.", dns.TypeA, noData},    // no mesh address yet
		{"closed.shop.mesh.", dns.TypeA, noData}, // no listener yet
		{"closed.shop.mesh.", dns.TypeSRV, noData},
		{"shop.mesh.", dns.TypeA, noData},
		{"local.mesh.", dns.TypeA, noData},
		{"svc.local.mesh.", dns.TypeA, one("svc.local.mesh. 5 IN A 10.96.0.13")},
		{"shop.svc.local.mesh.", dns.TypeA, noData},

		{"mesh.", dns.TypeSOA, one("mesh. 5 IN SOA tulle-dns.tulle-system.svc.cluster.local. hostmaster.mesh. 1 7200 1800 86400 2")},
		{"mesh.", dns.TypeNS, one("mesh. 5 IN NS tulle-dns.tulle-system.svc.cluster.local.")},
		{"mesh.", dns.TypeA, noData},
		{"mesh.", dns.TypeDS, noData},
		{"_tulle.mesh.", dns.TypeTXT, one(`_tulle.mesh. 0 IN TXT "tulle"`)},
		{"x17._tulle.mesh.", dns.TypeTXT, one(`x17._tulle.mesh. 0 IN TXT "tulle"`)},
		{"_tulle.mesh.", dns.TypeA, noData},
		{"_whoami.mesh.", dns.TypeTXT, one(`_whoami.mesh. 0 IN TXT "pod=p-1" "client=127.0.0.1"`)},
		{"_WhoAmI.traefik.mesh.", dns.TypeTXT, one(`_WhoAmI.traefik.mesh. 0 IN TXT "pod=p-1" "client=127.0.0.1"`)},
		{"_whoami.mesh.", dns.TypeA, noData},
		{"a._whoami.mesh.", dns.TypeTXT, noName},

		{"web.shop.mesh.svc.cluster.local.", dns.TypeA, refused},
		{"example.com.", dns.TypeA, refused},
		{".", dns.TypeNS, refused},
	}
)

func TestAnswers(t *testing.T) {
	server := serve(t, Config{View: exampleView(exampleMesh()), Pod: "p-1"})
	for _, network := range []string{"udp", "tcp"} {
		for _, c := range answers {
			t.Run(network+" "+c.qname+dns.TypeToString[c.qtype], func(t *testing.T) {
				r := ask(t, network, server, question(c.qname, c.qtype))
				got := answered{dns.RcodeToString[r.Rcode], plain(r.Answer), plain(r.Extra)}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("(-want +got)\n%s", diff)
				}
				if r.Rcode == dns.RcodeRefused {
					return
				}
				if !r.Authoritative || r.RecursionAvailable {
					t.Errorf("flags of %v", r.MsgHdr)
				}
				if ns := plain(r.Ns); len(r.Answer) == 0 && !slices.Equal(ns, []string{soa}) {
					t.Errorf("a negative answer's authority is %q", ns)
				}
			})
		}
	}
}

// TestAnswersFromTheAddressAsked has a server on all addresses: clients take no answer from another than they asked.
func TestAnswersFromTheAddressAsked(t *testing.T) {
	_, port, err := net.SplitHostPort(serveAt(t, Config{View: exampleView(exampleMesh())}, ":0"))
	if err != nil {
		t.Fatal(err)
	}
	if r := ask(t, "udp", "127.0.0.7:"+port, question("web.shop.mesh.", dns.TypeA)); len(r.Answer) != 1 {
		t.Errorf("got %v", r)
	}
	// Its sockets are of both families; the client's address is its own nevertheless.
	for _, network := range []string{"udp", "tcp"} {
		got := plain(ask(t, network, "127.0.0.1:"+port, question("_whoami.mesh.", dns.TypeTXT)).Answer)
		if want := []string{`_whoami.mesh. 0 IN TXT "pod=" "client=127.0.0.1"`}; !slices.Equal(got, want) {
			t.Errorf("%s: it saw %q, want %q", network, got, want)
		}
	}
}

func TestBypass(t *testing.T) {
	mesh := exampleMesh()
	mesh.DnsBypass = true
	server := serve(t, Config{View: exampleView(mesh)})
	for _, c := range []struct {
		qname string
		qtype uint16
		want  answered
	}{
		{"web.shop.mesh.", dns.TypeA, one("web.shop.mesh. 5 IN A 10.96.0.8")},
		{"web.shop.mesh.", dns.TypeAAAA, noData},
		{"_http._tcp.web.shop.mesh.", dns.TypeSRV, answered{
			"NOERROR",
			[]string{"_http._tcp.web.shop.mesh. 5 IN SRV 0 100 80 web.shop.mesh."},
			[]string{"web.shop.mesh. 5 IN A 10.96.0.8"},
		}},
		// Headless: the endpoints, and the port numbers that they listen on.
		{"db.shop.mesh.", dns.TypeA, one("db.shop.mesh. 5 IN A 10.244.1.4", "db.shop.mesh. 5 IN A 10.244.1.5")},
		{"db.shop.mesh.", dns.TypeAAAA, one("db.shop.mesh. 5 IN AAAA fd00:1::4")},
		{"db-0.db.shop.mesh.", dns.TypeA, one("db-0.db.shop.mesh. 5 IN A 10.244.1.4")},
		{"_http._tcp.db-0.db.shop.mesh.", dns.TypeSRV, answered{
			"NOERROR",
			[]string{
				"_http._tcp.db-0.db.shop.mesh. 5 IN SRV 0 100 8080 db-0.db.shop.mesh.",
				"_http._tcp.db-0.db.shop.mesh. 5 IN SRV 0 100 8081 db-0.db.shop.mesh.",
			},
			[]string{"db-0.db.shop.mesh. 5 IN A 10.244.1.4", "db-0.db.shop.mesh. 5 IN AAAA fd00:1::4"},
		}},
		{"closed.shop.mesh.", dns.TypeA, noData},
		{"nosuch.shop.mesh.", dns.TypeA, noName},
	} {
		r := ask(t, "udp", server, question(c.qname, c.qtype))
		if diff := cmp.Diff(c.want, answered{dns.RcodeToString[r.Rcode], plain(r.Answer), plain(r.Extra)}); diff != "" {
			t.Errorf("%s %s (-want +got)\n%s", c.qname, dns.TypeToString[c.qtype], diff)
		}
	}
}

func TestConfigChangesWhileServing(t *testing.T) {
	v := exampleView(nil)
	server := serve(t, Config{View: v})
	if r := ask(t, "udp", server, question("web.shop.mesh.", dns.TypeA)); r.Rcode != dns.RcodeServerFailure {
		t.Errorf("before the first config: %v", r)
	}
	v.mesh.Store(exampleMesh())
	if r := ask(t, "udp", server, question("web.shop.mesh.", dns.TypeA)); len(r.Answer) != 1 {
		t.Errorf("with a config: %v", r)
	}
	v.mesh.Store(&configv1.Mesh{Zones: []string{"traefik.mesh"}})
	if r := ask(t, "udp", server, question("web.shop.mesh.", dns.TypeA)); r.Rcode != dns.RcodeRefused {
		t.Errorf("after the zone went: %v", r)
	}
}

func TestSizes(t *testing.T) {
	mesh := exampleMesh()
	mesh.DnsBypass = true
	server := serve(t, Config{View: exampleView(mesh)})
	for _, c := range []struct {
		network   string
		edns      uint16
		truncated bool
		atMost    int
	}{
		{"udp", 0, true, 512},
		{"udp", 800, true, 800},
		{"udp", 4096, true, maxUDP},
		{"tcp", 0, false, dns.MaxMsgSize},
		{"tcp", 800, false, dns.MaxMsgSize},
	} {
		m := question("crowd.shop.mesh.", dns.TypeA)
		if c.edns > 0 {
			m.SetEdns0(c.edns, true)
		}
		client := &dns.Client{Net: c.network, UDPSize: dns.MaxMsgSize}
		r, _, err := client.Exchange(m, server)
		if err != nil {
			t.Fatal(err)
		}
		r.Compress = true
		if r.Truncated != c.truncated || r.Len() > c.atMost || !c.truncated && len(r.Answer) != 200 {
			t.Errorf("%+v: truncated %v, %d bytes, %d records", c, r.Truncated, r.Len(), len(r.Answer))
		}
		if has := r.IsEdns0() != nil; has != (c.edns > 0) {
			t.Errorf("%+v: EDNS in the answer: %v", c, has)
		}
	}
}

func TestStrangeQueries(t *testing.T) {
	server := serve(t, Config{View: exampleView(exampleMesh())})
	chaos := question("web.shop.mesh.", dns.TypeTXT)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	notify := new(dns.Msg).SetNotify("mesh.")
	badVersion := question("web.shop.mesh.", dns.TypeA)
	badVersion.SetEdns0(1232, false).IsEdns0().SetVersion(1)
	for name, c := range map[string]struct {
		m     *dns.Msg
		rcode int
	}{
		"another class":         {chaos, dns.RcodeRefused},
		"notify":                {notify, dns.RcodeNotImplemented},
		"unknown EDNS version":  {badVersion, dns.RcodeBadVers},
		"transfer":              {question("mesh.", dns.TypeAXFR), dns.RcodeSuccess},
		"unknown type":          {question("web.shop.mesh.", 65280), dns.RcodeSuccess},
		"a dot within a label":  {question(`web\.shop.mesh.`, dns.TypeA), dns.RcodeSuccess},
		"a dot within two":      {question(`we\.b.shop.mesh.`, dns.TypeA), dns.RcodeNameError},
		"a label of nothing":    {question(`\000.shop.mesh.`, dns.TypeA), dns.RcodeNameError},
		"the zone with a space": {question(`web.shop.mesh\ .`, dns.TypeA), dns.RcodeRefused},
	} {
		if r := ask(t, "udp", server, c.m); r.Rcode != c.rcode || len(r.Answer) != 0 {
			t.Errorf("%s: %v", name, r)
		}
	}
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	var asked atomic.Int64
	server := serve(t, Config{View: exampleView(exampleMesh()), Registerer: registry, Asked: func() { asked.Add(1) }})
	for _, qtype := range []uint16{dns.TypeA, dns.TypeA, dns.TypeSRV, dns.TypeCAA} {
		ask(t, "udp", server, question("web.shop.mesh.", qtype))
	}
	ask(t, "udp", server, question("example.org.", dns.TypeA))
	want := map[string]float64{"A NOERROR": 2, "SRV NOERROR": 1, "other NOERROR": 1, "A REFUSED": 1}
	families, err := registry.Gather()
	if err != nil || len(families) != 1 || families[0].GetName() != "tulle_dns_responses_total" {
		t.Fatalf("gathered %v, %v", families, err)
	}
	got := map[string]float64{}
	for _, m := range families[0].GetMetric() {
		got[m.GetLabel()[1].GetValue()+" "+m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if n := asked.Load(); n != 5 {
		t.Errorf("%d queries were told of", n)
	}
}

// TestLeave has kept connections end with an answer each, once others serve instead.
func TestLeave(t *testing.T) {
	s, at := start(t, Config{View: exampleView(exampleMesh())}, "127.0.0.1:0")
	client := &dns.Client{Net: "tcp", Timeout: 5 * time.Second}
	var kept [2]*dns.Conn
	for i := range kept {
		c, err := client.Dial(at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		kept[i] = c
	}
	answered := func(c *dns.Conn) error {
		r, _, err := client.ExchangeWithConn(question("web.shop.mesh.", dns.TypeA), c)
		if err == nil && len(r.Answer) == 0 {
			t.Errorf("the answer is %v", r)
		}
		return err
	}
	for range 2 {
		if err := answered(kept[0]); err != nil {
			t.Fatalf("a kept connection: %v", err)
		}
	}
	s.Leave()
	for i, c := range kept {
		if err := answered(c); err != nil {
			t.Errorf("connection %d, once others serve: %v", i, err)
		}
		if err := answered(c); err == nil {
			t.Errorf("connection %d is kept", i)
		}
	}
	ask(t, "udp", at, question("web.shop.mesh.", dns.TypeA))
	ask(t, "tcp", at, question("web.shop.mesh.", dns.TypeA))
}

func TestStopBeforeStart(t *testing.T) {
	s, err := New(Config{View: exampleView(exampleMesh())})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx, l, p); err != nil {
		t.Error(err)
	}
}
